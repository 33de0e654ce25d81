"""Filling a ``LatencyTable`` with what a search can ask for, by ``amc.latency.session``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from amc.deploy import deployed
from amc.kernels.dense import Dense
from amc.latency.clock import settled, timed
from amc.latency.device import describe_device, kernel_digest
from amc.latency.grid import thin
from amc.latency.ops import OpTemplate
from amc.latency.session import DenseNetwork, Point, Progress, Session, device_settings, prepare
from amc.latency.table import KernelTimes, LatencyTable, NetworkTime, missing
from amc.latency.trace import trace_ops

REPEATS = 11
MORE_REPEATS = 15  # for points that stay uncertain
FULL_GRID = 49  # kernels with no more points than this are timed at every reachable width
TOLERANCE = 0.03  # of the straight lines between the points of a thinned grid
UNCERTAIN = 0.03  # half the width, relative, of a median's 95% interval above which it is noisy
DENSE_REPEATS = 40
CHAIN = 40  # calls in the networks on which the overhead of a call is measured

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
    places = sorted((p, r.template.key) for r in wanted for p in r.positions)
    session = Session([key for _, key in places], threads, fresh, progress)
    with device_settings(threads):
        grids = _grids(session, wanted)
        points = [(r.template, dims) for r, grid in grids for dims in product(*grid)]
        session.time(points, REPEATS, "timing kernels")
        _time_again(session, points)
        while not session.reference or any(
            len(session.networks[d.key]) < DENSE_REPEATS for d in fresh
        ):
            session.time_turn([], 1)
        overhead_s = dict(table.call_overhead_s) if table else call_overhead(threads)
    reference_s = settled(session.reference, threads).median
    table = table or _empty(threads, reference_s, overhead_s)
    factor = reference_s / table.reference_s
    return table.merged(
        {r.template.key: _times(session, r, grid, factor, overhead_s) for r, grid in grids},
        {d.key: _network_time(session, d, factor) for d in fresh},
    )


def _empty(threads: int, reference_s: float, overhead_s: dict[str, float]) -> LatencyTable:
    return LatencyTable(
        device=describe_device(),
        threads=threads,
        torch_version=torch.__version__,
        backend=Dense.backend(),
        kernel_digest=kernel_digest(),
        reference_s=reference_s,
        call_overhead_s=overhead_s,
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
        r.template.key: _profiles(r)
        for r in requests
        if len(r.reachable) > 1 and prod(map(len, r.reachable)) > FULL_GRID
    }
    points = dict.fromkeys(
        (r.template, dims)
        for r in requests
        for line in profiles.get(r.template.key, ())
        for dims in line
    )
    session.time(list(points), REPEATS, "looking at curves")
    chosen = []
    for request in requests:
        grid = request.reachable
        if request.template.key in profiles:
            grid = tuple(
                thin(widths, session.curve(request.template, line), TOLERANCE)
                for widths, line in zip(grid, profiles[request.template.key], strict=True)
            )
        chosen.append((request, grid))
    return chosen


def _profiles(request: KernelRequest) -> list[list[tuple[int, ...]]]:
    """Return for each axis the points along it, every other axis at its largest width."""
    top = [widths[-1] for widths in request.reachable]
    return [
        [(*top[:axis], width, *top[axis + 1 :]) for width in widths]
        for axis, widths in enumerate(request.reachable)
    ]


def _time_again(session: Session, points: Sequence[Point]) -> None:
    noisy = [point for point in points if session.settled(point).interval > UNCERTAIN]
    session.time(noisy, MORE_REPEATS, "timing noisy kernels again")


def _times(
    session: Session,
    request: KernelRequest,
    grid: Grid,
    factor: float,
    overhead_s: Mapping[str, float],
) -> KernelTimes:
    call_s = overhead_s["layer" if request.template.has_weights else "function"]
    shape = tuple(len(marks) for marks in grid)
    points = [session.settled((request.template, dims)) for dims in product(*grid)]
    medians = np.array([point.median for point in points]).reshape(shape)
    return KernelTimes(
        axes=request.template.axes,
        grid=grid,
        # A call on the smallest operands, whose overhead may be negative, still takes some time.
        seconds=np.maximum(medians / factor + call_s, medians / factor / 4),
        spread=np.array([point.spread for point in points]).reshape(shape),
        repeats=min(len(point.seconds) for point in points),
        noisy=tuple(i for i, point in enumerate(points) if point.interval > UNCERTAIN),
    )


def _network_time(session: Session, dense: DenseNetwork, factor: float) -> NetworkTime:
    timings = settled(session.networks[dense.key], session.threads)
    return NetworkTime(timings.median / factor, timings.spread, len(timings.seconds))


class _Functions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(CHAIN):
            x = nn.functional.relu(x)
        return x


def call_overhead(threads: int) -> dict[str, float]:
    """Return what a call costs inside a network beyond what ``session`` times, seconds (or < 0).

    Of a "layer" (a module with weights) and of a "function". Measured on chains of operations so
    small that calling them is all there is.
    """
    chains = {
        "layer": nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(CHAIN)]),
        "function": _Functions(),
    }
    return {kind: _overhead(deployed(chain), threads) for kind, chain in chains.items()}


def _overhead(network: nn.Module, threads: int, repeats: int = 150) -> float:
    inputs = (torch.ones(1, 4, 2, 2).to(memory_format=torch.channels_last),)
    ops = [prepare(op.template, op.dims)[0] for op in trace_ops(network, inputs)]
    inside = [timed(lambda: network(*inputs)) for _ in range(repeats)]
    alone = [[timed(op) for op in ops] for _ in range(repeats)]
    by_op = [settled(timings, threads).median for timings in zip(*alone, strict=True)]
    return (settled(inside, threads).median - sum(by_op)) / len(ops)
