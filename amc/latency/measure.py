"""Filling a ``LatencyTable`` with what a search can ask for, by ``amc.latency.session``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from amc.deploy import deployed
from amc.kernels.dense import Dense
from amc.latency.clock import settled
from amc.latency.device import describe_device, kernel_digest
from amc.latency.grid import thin
from amc.latency.ops import OpTemplate
from amc.latency.session import DenseNetwork, Point, Progress, Session, device_settings
from amc.latency.table import KernelTimes, LatencyTable, NetworkTime, missing
from amc.latency.trace import trace_ops

__all__ = ["DenseNetwork", "KernelRequest", "call_overhead", "measure_table"]

PASSES, REPEATS = 2, 6  # a machine drifts: the same point is timed at different times
MORE_REPEATS = 12  # for the most uncertain points, at most a quarter of all
FULL_GRID = 49  # kernels with no more points than this are timed at every reachable width
TOLERANCE = 0.03  # of the straight lines between the points of a thinned grid
UNCERTAIN = 0.05  # half the width, relative, of a median's 95% interval above which it is noisy
MOST_CANDIDATES = 64  # widths of an axis that are looked at
MOST_POINTS = 180  # of a thinned grid
CURVE_REPEATS = 5
DENSE_REPEATS = 40
CHAIN = 40  # calls in the networks on which the overhead of a call is measured
CHAIN_REPEATS = 30

Grid = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class KernelRequest:
    """A kernel, and for each of its axes the ascending widths that a search can ask for.

    ``positions`` are its places in the order of the network's operations.
    """

    template: OpTemplate
    reachable: Grid
    positions: tuple[int, ...] = (0,)


def measure_table(
    requests: Sequence[KernelRequest],
    threads: int,
    table: LatencyTable | None = None,
    dense: Sequence[DenseNetwork] = (),
    progress: Progress = lambda done, total, what: None,
) -> LatencyTable:
    """Return ``table`` (or a new one) with every request measured that it lacks.

    ``progress(done, total, what)`` is called as it goes. New times are brought to the clock of the
    table's first session by the reference operation.
    """
    wanted = [
        KernelRequest(r.template, _union(r, table), r.positions)
        for r in requests
        if table is None or missing(table, r.template.key, r.reachable)
    ]
    fresh = [d for d in dense if table is None or d.key not in table.networks]
    if table is not None and not wanted and not fresh:
        return table
    places = sorted((p, r.template.op) for r in wanted for p in r.positions)
    session = Session([op for _, op in places], threads, fresh, progress)
    with device_settings(threads):
        grids = _grids(session, wanted)
        points = [(r.template, dims) for r, grid in grids for dims in product(*grid)]
        for _ in range(PASSES):
            session.time(points, REPEATS, "timing kernels")
        _time_again(session, points)
        while not session.reference_s or any(
            len(session.networks[d.key]) < DENSE_REPEATS for d in fresh
        ):
            session.time_turn([], REPEATS)
        table = table or _empty(threads, float(np.median(session.reference_s)))
    return table.merged(
        {r.template.key: _times(session, r, grid, table) for r, grid in grids},
        {d.key: _network_time(session, d, table) for d in fresh},
    )


def _empty(threads: int, reference_s: float) -> LatencyTable:
    return LatencyTable(
        device=describe_device(),
        threads=threads,
        torch_version=torch.__version__,
        backend=Dense.backend(),
        kernel_digest=kernel_digest(),
        reference_s=reference_s,
        call_overhead_s=call_overhead(threads, reference_s),
        kernels={},
        networks={},
    )


def _union(request: KernelRequest, table: LatencyTable | None) -> Grid:
    """Return the widths to measure: those asked for, and those of the grid that is replaced."""
    known = table.kernels.get(request.template.key) if table else None
    if known is None:
        return request.reachable
    return tuple(
        tuple(sorted({*widths, *marks}))
        for widths, marks in zip(request.reachable, known.grid, strict=True)
    )


def _grids(session: Session, requests: Sequence[KernelRequest]) -> list[tuple[KernelRequest, Grid]]:
    """Return a grid a request: all reachable widths, or those that the measured curves need."""
    profiles = {
        r.template.key: _profiles(tuple(_candidates(widths) for widths in r.reachable))
        for r in requests
        if len(r.reachable) > 1 and prod(map(len, r.reachable)) > FULL_GRID
    }
    points = dict.fromkeys(
        (r.template, dims)
        for r in requests
        for line in profiles.get(r.template.key, ())
        for dims in line
    )
    session.time(list(points), CURVE_REPEATS, "looking at curves")
    chosen = []
    for request in requests:
        grid = tuple(_candidates(widths) for widths in request.reachable)
        if request.template.key in profiles:
            curves = [
                session.curve(request.template, line) for line in profiles[request.template.key]
            ]
            grid = thin(grid, curves, TOLERANCE, MOST_POINTS)
        chosen.append((request, grid))
    return chosen


def _candidates(widths: Sequence[int]) -> tuple[int, ...]:
    """Return at most about ``MOST_CANDIDATES`` of ``widths``, the first and the last included."""
    step = -(-len(widths) // MOST_CANDIDATES)
    # An odd step meets every remainder of a blocked kernel's block; an even one only its fast ones.
    step += 1 - step % 2
    return tuple(sorted({*widths[::step], widths[-1]}))


def _profiles(grid: Grid) -> list[list[tuple[int, ...]]]:
    """Return for each axis the points along it, every other axis at its largest width."""
    top = [widths[-1] for widths in grid]
    return [
        [(*top[:axis], width, *top[axis + 1 :]) for width in widths]
        for axis, widths in enumerate(grid)
    ]


def _time_again(session: Session, points: Sequence[Point]) -> None:
    doubt = {i: session.settled(point).interval for i, point in enumerate(points)}
    worst = sorted(doubt, key=lambda i: -doubt[i])[: len(points) // 4]
    noisy = [points[i] for i in sorted(worst) if doubt[i] > UNCERTAIN]
    session.time(noisy, MORE_REPEATS, "timing noisy kernels again")


def _times(
    session: Session,
    request: KernelRequest,
    grid: Grid,
    table: LatencyTable,
) -> KernelTimes:
    call_s = table.call_overhead_s["layer" if request.template.has_weights else "function"]
    shape = tuple(len(marks) for marks in grid)
    points = [session.settled((request.template, dims)) for dims in product(*grid)]
    medians = np.array([point.median for point in points]).reshape(shape) * table.reference_s
    return KernelTimes(
        axes=request.template.axes,
        grid=grid,
        # A call on the smallest operands, whose overhead may be negative, still takes some time.
        seconds=np.maximum(medians + call_s, medians / 4),
        spread=np.array([point.spread for point in points]).reshape(shape),
        repeats=min(len(point.seconds) for point in points),
        noisy=tuple(i for i, point in enumerate(points) if point.interval > UNCERTAIN),
    )


def _network_time(session: Session, dense: DenseNetwork, table: LatencyTable) -> NetworkTime:
    timings = settled(session.networks[dense.key], session.threads)
    return NetworkTime(timings.median * table.reference_s, timings.spread, len(timings.seconds))


class _Functions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(CHAIN):
            x = nn.functional.relu(x)
        return x


def call_overhead(threads: int, reference_s: float) -> dict[str, float]:
    """Return what a call costs inside a network beyond what ``session`` times, seconds (or < 0).

    Of a "layer" (a module with weights) and of a "function". Measured on chains of operations so
    small that calling them is all there is, and in the session's own way.
    """
    chains = {
        "layer": nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(CHAIN)]),
        "function": _Functions(),
    }
    return {
        kind: _overhead(deployed(chain), threads) * reference_s for kind, chain in chains.items()
    }


def _overhead(network: nn.Module, threads: int) -> float:
    inputs = (torch.ones(1, 4, 2, 2).to(memory_format=torch.channels_last),)
    points = [(op.template, op.dims) for op in trace_ops(network, inputs)]
    dense = DenseNetwork("", network, inputs)
    session = Session([], threads, (dense,), lambda done, total, what: None)
    for _ in range(CHAIN_REPEATS):
        session.time_turn(points, 3)
    alone = sum(session.settled(point).median for point in points)
    return (settled(session.networks[""], threads).median - alone) / len(points)
