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
from amc.config_sections import LatencyConfig
from amc.deploy import deployed
from amc.latency import LatencyTable
from amc.latency.table import network_key
from amc.latency.trace import network_latency, trace_ops
from amc.mixed_plan import random_plans
from amc.pricing import PATIENCE_S, complete_table
from amc.reporting import Reporter
from amc.space import SearchSpace
from amc.task import LoadedTask
from amc.timing import Measured, measure_deployed

NETWORKS = ("resnet20", "mobilenet", "amc.zoo.branched:branched")
PATTERNS = ("dense", "2:4", "1:4", "csr", "4x1")
SECONDS_EACH = 1.0  # the longest for one network in one process
PROCESSES = 3  # of one measurement
MEASUREMENTS = 2

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
    processes: int = PROCESSES
    patience_s: float = PATIENCE_S


def latency(settings: Settings, table: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Return one row a plan: what the table in ``table`` predicts, and what it measures, twice.

    The table is given what it lacks first. Measuring a table and measuring plans each happen in a
    fresh process, as a deployed network would run. A measurement is the geometric mean of those in
    ``settings.processes`` fresh processes: from one to the next every network's time moves by 2% or
    more, together.
    """
    for name in settings.tasks:
        apart(_complete, reporter, settings, name, table)
    its = LatencyTable.load(table)
    return [row for name in settings.tasks for row in rows_of(settings, name, its, reporter)]


def _complete(reporter: Reporter, settings: Settings, name: str, table: Path) -> None:
    torch.set_num_threads(1)
    task, space = settings.make(name)
    sparse = [pattern for pattern in settings.patterns if pattern != "dense"]
    complete_table(task, space, settings.latency, table, sparse, reporter)


def rows_of(
    settings: Settings, name: str, table: LatencyTable, reporter: Reporter
) -> list[dict[str, Any]]:
    """Return the rows of one network, each measurement's processes one after the other."""
    rows = predicted(reporter, settings, name, table)
    sittings = [
        [apart(measured, reporter, settings, name, table) for _ in range(settings.processes)]
        for _ in range(MEASUREMENTS)
    ]
    for number, row in enumerate(rows):
        first, again = ([process[number] for process in its] for its in sittings)
        row |= {
            "measured_latency_s": geometric_mean([its.measured_latency_s for its in first]),
            "measured_again_s": geometric_mean([its.measured_latency_s for its in again]),
            "measured_raw_s": geometric_mean([its.measured_raw_s for its in first]),
            "clock_factor": geometric_mean([its.clock_factor for its in first]),
            "clock_factor_again": geometric_mean([its.clock_factor for its in again]),
            "processes_s": [its.measured_latency_s for its in [*first, *again]],
            "clock": "cpu" if any(its.clock == "cpu" for its in [*first, *again]) else "wall",
            "noisy": any(its.noisy for its in [*first, *again]),
        }
    return rows


def predicted(
    reporter: Reporter, settings: Settings, name: str, table: LatencyTable
) -> list[dict[str, Any]]:
    """Return of every plan of a network what is known of it before it is measured."""
    _, networks, inputs = _networks(settings, name, reporter)
    return [
        {
            "network": name,
            "plan_digest": digest,
            "predicted_latency_s": network_latency(network, inputs, table),
            "macs": sum(op.macs for op in trace_ops(network, inputs)) // len(inputs[0]),
            "sparse_layers": layers,
            "batch_size": settings.latency.batch_size,
            "threads": table.threads,
            "backend": table.backend,
            "noisy_table": table.is_noisy,
        }
        for digest, layers, network in networks
    ]


def measured(
    reporter: Reporter, settings: Settings, name: str, table: LatencyTable
) -> list[Measured]:
    """Return how long each plan's network takes, in this process."""
    task, networks, inputs = _networks(settings, name, reporter)
    subjects = {str(i): network for i, (_, _, network) in enumerate(networks)}
    dense = network_key(task.network_digest, settings.latency.batch_size)
    yardstick = deployed(task.network, task.inputs)
    patience_s, each = settings.patience_s, settings.seconds_each
    with reporter.task(f"measuring {len(subjects)} networks of {name}", None):
        its = measure_deployed(subjects, inputs, table, (dense, yardstick), each, patience_s)
    return [its[subject] for subject in subjects]


def _networks(
    settings: Settings, name: str, reporter: Reporter
) -> tuple[LoadedTask, list[tuple[str, int, nn.Module]], tuple[Tensor, ...]]:
    """Return the task, each plan's digest, sparse layers and network, and a batch of inputs."""
    torch.set_num_threads(1)
    task, space = settings.make(name)
    plans = random_plans(task, space, settings.plans, settings.seed, settings.patterns)
    networks = []
    with reporter.task(f"building plans of {name}", len(plans)) as bar:
        for plan in plans:
            networks.append((plan.digest, len(plan.layers), plan.network(task, space)))
            bar.advance()
    return task, networks, task.batch(settings.latency.batch_size)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(values))))


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
