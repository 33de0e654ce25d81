"""Predicted and measured latency layer by layer, of one deployed network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.errors import InputError
from amc.latency import LatencyTable
from amc.latency.ops import OpCall
from amc.latency.session import device_settings
from amc.latency.trace import trace_ops

WARM_UP, RUNS = 3, 25


def layer_times(
    network: nn.Module, inputs: tuple[Tensor, ...], table: LatencyTable, clock_factor: float
) -> list[dict[str, Any]]:
    """Return ``layer``, ``kernel``, ``predicted_latency_s`` and ``measured_latency_s`` of each.

    A layer's time is from its start to that of the next one, with the functions behind it; the
    median of ``RUNS`` forward passes, divided by ``clock_factor``. Layers are in order of
    execution; the sum of their medians is only about the network's time. ``None`` stands for what
    the table does not know, and for functions inside modules that ``torch.fx`` could not trace.
    """
    predicted: dict[str, float | None] = {}
    kernels: dict[str, str] = {}
    for op in trace_ops(network, inputs):
        before, its = predicted.get(op.layer, 0.0), _known(table, op)
        predicted[op.layer] = None if before is None or its is None else before + its
        kernels.setdefault(op.layer, op.template.kernel)
    with device_settings(table.threads):
        measured = _measured(network, inputs)
    return [
        {
            "layer": layer,
            "kernel": kernels[layer],
            "predicted_latency_s": seconds,
            "measured_latency_s": measured[layer] / clock_factor if layer in measured else None,
        }
        for layer, seconds in predicted.items()
    ]


def _known(table: LatencyTable, op: OpCall) -> float | None:
    try:
        return table.latency(op)
    except InputError:
        return None


def _measured(network: nn.Module, inputs: tuple[Tensor, ...]) -> Mapping[str, float]:
    """Return the median seconds of each layer, by name."""
    starts: list[tuple[str, float]] = []
    leaves = [(n, m) for n, m in network.named_modules() if n and not any(m.children())]
    hooks = [
        leaf.register_forward_pre_hook(
            lambda *_, name=name: starts.append((name, time.perf_counter()))
        )
        for name, leaf in leaves
    ]
    runs: dict[str, list[float]] = {}
    try:
        with torch.inference_mode():
            for run in range(WARM_UP + RUNS):
                starts.clear()
                network(*inputs)
                ends = [*(t for _, t in starts[1:]), time.perf_counter()]
                total: dict[str, float] = {}
                for (name, start), end in zip(starts, ends, strict=True):
                    total[name] = total.get(name, 0.0) + end - start
                for name, seconds in total.items() if run >= WARM_UP else ():
                    runs.setdefault(name, []).append(seconds)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: float(np.median(seconds)) for name, seconds in runs.items()}
