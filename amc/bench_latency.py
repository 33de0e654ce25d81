"""``amc bench latency``: predictions held against whole networks that no table has timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc.apart import apart
from amc.config import LatencyConfig
from amc.deploy import deployed
from amc.latency import LatencyTable
from amc.latency.table import network_key
from amc.latency.trace import network_latency, trace_ops
from amc.mixed_plan import random_plans
from amc.pricing import PATIENCE_S, batch_of, complete_table
from amc.reporting import Reporter
from amc.space import SearchSpace
from amc.task import LoadedTask
from amc.timing import Measured, measure_deployed

NETWORKS = ("resnet20", "mobilenet", "amc.zoo.branched:branched")
PATTERNS = ("dense", "2:4", "1:4", "csr", "4x1")
SECONDS_EACH = 2.0  # the longest for one network in one sitting
SITTINGS = 2

Make = Callable[[str], tuple[LoadedTask, SearchSpace]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What one benchmark does; ``make`` loads a task and its space, also in another process."""

    make: Make
    tasks: tuple[str, ...] = NETWORKS
    plans: int = 20
    seed: int = 0
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    patterns: tuple[str, ...] = PATTERNS
    seconds_each: float = SECONDS_EACH
    patience_s: float = PATIENCE_S


def latency(settings: Settings, table: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Return one row a plan: what the table in ``table`` predicts, and what it measures, twice.

    The table is given what it lacks first. Measuring a table and measuring plans each happen in a
    fresh process, as a deployed network would run.
    """
    for name in settings.tasks:
        apart(_complete, reporter, settings, name, table)
    return [row for name in settings.tasks for row in apart(_rows, reporter, settings, name, table)]


def _complete(reporter: Reporter, settings: Settings, name: str, table: Path) -> None:
    torch.set_num_threads(1)
    task, space = settings.make(name)
    sparse = [pattern for pattern in settings.patterns if pattern != "dense"]
    complete_table(task, space, settings.latency, table, sparse, reporter)


def _rows(reporter: Reporter, settings: Settings, name: str, table: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    steps = settings.plans * (1 + SITTINGS)
    with reporter.task(f"predicting and measuring {name}", steps) as bar:
        return rows_of(settings, name, LatencyTable.load(table), bar.advance)


def rows_of(
    settings: Settings, name: str, table: LatencyTable, done: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Return the rows of one network; ``done(n)`` is told of every n steps of plans * 3."""
    task, space = settings.make(name)
    inputs = batch_of(task, settings.latency.batch_size)
    plans = random_plans(task, space, settings.plans, settings.seed, settings.patterns)
    networks: dict[str, nn.Module] = {}
    rows = []
    for number, plan in enumerate(plans):
        network = networks[str(number)] = plan.network(task, space)
        rows.append(
            {
                "network": name,
                "plan_digest": plan.digest,
                "predicted_latency_s": network_latency(network, inputs, table),
                "macs": sum(op.macs for op in trace_ops(network, inputs)) // len(inputs[0]),
                "sparse_layers": len(plan.layers),
            }
        )
        done(1)
    sittings = []
    for _ in range(SITTINGS):
        sittings.append(_sitting(settings, networks, task, inputs, table))
        done(len(plans))
    for number, row in enumerate(rows):
        first, again = (sitting[str(number)] for sitting in sittings)
        row |= {
            "measured_latency_s": first.measured_latency_s,
            "measured_again_s": again.measured_latency_s,
            "measured_raw_s": first.measured_raw_s,
            "clock_factor": first.clock_factor,
            "clock_factor_again": again.clock_factor,
            "clock": first.clock,
            "noisy": first.noisy or again.noisy,
            "batch_size": settings.latency.batch_size,
            "threads": table.threads,
            "backend": table.backend,
            "noisy_table": table.is_noisy,
        }
    return rows


def _sitting(
    settings: Settings,
    networks: Mapping[str, nn.Module],
    task: LoadedTask,
    inputs: tuple[Tensor, ...],
    table: LatencyTable,
) -> dict[str, Measured]:
    dense = network_key(task.network_digest, settings.latency.batch_size)
    yardstick = deployed(task.network, task.inputs)
    patience_s, each = settings.patience_s, settings.seconds_each
    return measure_deployed(networks, inputs, table, (dense, yardstick), each, patience_s)


def error_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row of error statistics a network.

    Errors are predicted over measured, less one. ``repeatability`` is the standard deviation of one
    measurement, from the differences of two; ``rmspe_net`` is the root mean square error after its
    variance was taken away. ``macs_linear_rmspe`` is that of a straight line in MACs through the
    measured latencies of the other plans, and of the measurement's noise as ``rmspe``.
    """
    names = dict.fromkeys(str(row["network"]) for row in rows)
    return [_errors(name, [row for row in rows if row["network"] == name]) for name in names]


def _errors(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    predicted, measured, again, macs = (
        np.array([float(row[key]) for row in rows])
        for key in ("predicted_latency_s", "measured_latency_s", "measured_again_s", "macs")
    )
    error = predicted / measured - 1
    repeatability = float(np.sqrt(np.mean((again / measured - 1) ** 2) / 2))
    rmspe = _rms(error)
    line = np.array(list(_linear(macs, measured)))
    baseline = line / measured - 1
    return {
        "network": name,
        "plans": len(rows),
        "within_5": float(np.mean(np.abs(error) <= 0.05)),
        "within_10": float(np.mean(np.abs(error) <= 0.10)),
        "all_within_10_and_twice_repeatability": bool(
            np.all(np.abs(error) <= 0.10 + 2 * repeatability)
        ),
        "worst": float(np.abs(error).max()),
        "bias": float(error.mean()),
        "rmspe": rmspe,
        "rmspe_net": float(np.sqrt(max(0.0, rmspe**2 - repeatability**2))),
        "repeatability": repeatability,
        "macs_linear_within_10": float(np.mean(np.abs(baseline) <= 0.10)),
        "macs_linear_rmspe": _rms(baseline),
        "noisy": sum(bool(row["noisy"]) for row in rows),
    }


def _linear(macs: Floats, seconds: Floats) -> Iterator[float]:
    """Yield for every plan the least squares line through all the others, at its MACs."""
    for i in range(len(macs)):
        others = np.arange(len(macs)) != i
        if others.sum() < 2:
            yield float(seconds[others].mean()) if others.any() else float(seconds[i])
            continue
        terms = np.stack([np.ones(others.sum()), macs[others]], axis=1)
        (start, slope), *_ = np.linalg.lstsq(terms, seconds[others], rcond=None)
        yield float(start + slope * macs[i])


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))
