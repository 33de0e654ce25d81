"""From a configuration to a cost model: this machine's latency table, measured where it lacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from amc.compress import compress
from amc.config import LatencyConfig
from amc.deploy import deployed
from amc.errors import InputError
from amc.latency import LatencyTable
from amc.latency.device import describe_device, target_path
from amc.latency.measure import DenseNetwork, measure_table
from amc.latency.table import network_key
from amc.network_cost import NetworkCostModel
from amc.network_structure import NetworkStructure, network_structure
from amc.reporting import Handle, Reporter
from amc.space import SearchSpace
from amc.task import LoadedTask


def batch_of(task: LoadedTask, size: int) -> tuple[Tensor, ...]:
    """Return one batch of ``size`` search inputs, repeated where there are too few."""
    index = torch.arange(size) % len(task.search)
    return task.search[index].channels_last().inputs


def structure_of(task: LoadedTask, space: SearchSpace, batch_size: int) -> NetworkStructure:
    """Return the operations of the task's network as functions of the space's widths."""

    def build(widths: Sequence[int]) -> nn.Module:
        choices = space.plan(widths).choices
        kept = {site: choice.kept for site, choice in choices.items()}
        return compress(task.network, space.groups, kept)

    return network_structure(build, space.sites, batch_of(task, batch_size))


def cost_model(
    task: LoadedTask, space: SearchSpace, latency: LatencyConfig, reporter: Reporter
) -> NetworkCostModel:
    """Return the cost model of a task on the configured target.

    ``auto`` measures what this machine's cached table lacks, and adds it there. Any other target
    is used as it is: ``InputError`` names the first kernel that it lacks.
    """
    structure = structure_of(task, space, latency.batch_size)
    path = target_path(latency.target, torch.__version__, latency.threads)
    if latency.target != "auto":
        given = LatencyTable.load(path)
        if given.threads != latency.threads:
            raise InputError(
                f"latency.threads {latency.threads} does not fit the table {str(path)!r}, which "
                f"was measured with {given.threads}; set latency.threads to that"
            )
        return NetworkCostModel(structure, given)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        table = LatencyTable.load(path) if path.is_file() else None
        measured = _complete(task, structure, latency, table, reporter)
        if measured is not table:
            measured.save(path)
    return NetworkCostModel(structure, restricted(measured, structure, task))


def restricted(table: LatencyTable, structure: NetworkStructure, task: LoadedTask) -> LatencyTable:
    """Return the part of ``table`` that one network's search depends on."""
    needed = {request.template.key for request in structure.kernel_requests()}
    own = network_key(task.network_digest, structure.batch_size)
    return replace(
        table,
        kernels={key: times for key, times in table.kernels.items() if key in needed},
        networks={key: time for key, time in table.networks.items() if key == own},
    )


def is_here(table: LatencyTable) -> bool:
    """Return whether ``table`` was measured on a machine and a torch like these."""
    same_torch = table.torch_version == torch.__version__
    return same_torch and dict(table.device) == describe_device()


def _complete(
    task: LoadedTask,
    structure: NetworkStructure,
    latency: LatencyConfig,
    table: LatencyTable | None,
    reporter: Reporter,
) -> LatencyTable:
    inputs = batch_of(task, latency.batch_size)
    key = network_key(task.network_digest, latency.batch_size)
    bar: Handle | None = None
    shown = (0, 0)  # done, and of how many

    def progress(done: int, total: int, what: str) -> None:
        nonlocal bar, shown
        if bar is None or total != shown[1]:
            bar, shown = reporter.task("measuring kernels", total), (0, total)
        bar.advance(done - shown[0], what)
        shown = (done, total)

    measured = measure_table(
        structure.kernel_requests(),
        latency.threads,
        table,
        [DenseNetwork(key, deployed(task.network, task.inputs), inputs)],
        progress,
    )
    # As it will be read again: a file holds times to the nanosecond.
    return table if measured is table else LatencyTable.from_json(measured.as_json())


def measure_to(
    task: LoadedTask,
    space: SearchSpace,
    latency: LatencyConfig,
    out: Path | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure what a search of ``task`` needs, anew into ``out`` or into the cache."""
    structure = structure_of(task, space, latency.batch_size)
    begin = time.perf_counter()
    if out is None:
        model = cost_model(task, space, latency, reporter)
        path, table = target_path("auto", torch.__version__, latency.threads), model.table
    else:
        path, table = out, _complete(task, structure, latency, None, reporter)
        table.save(out)
    needed = [table.kernels[r.template.key] for r in structure.kernel_requests()]
    return {
        "out": str(path),
        "device": table.device["cpu"],
        "backend": table.backend,
        "threads": table.threads,
        "batch_size": latency.batch_size,
        "kernels": len(needed),
        "points": sum(times.seconds.size for times in needed),
        "noisy_points": sum(len(times.noisy) for times in needed),
        "median_spread": float(np.median(np.concatenate([t.spread.ravel() for t in needed]))),
        "digest": table.digest,
        "measure_s": round(time.perf_counter() - begin, 2),
    }
