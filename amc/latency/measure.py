"""Filling a ``LatencyTable``: timing kernels so that their sum predicts whole networks.

How an operation is timed decides whether the table is right. Each call runs once, not in a hot
loop: a turn goes through the network's kernels in the network's order, each at another width, so
that code and weights are as warm or cold as they are there; and what a call reads is rewritten just
before it, because in a network the operation before has just written it. A fixed reference
operation takes part in every turn, so that later sessions can be brought to this one's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.deploy import deployed
from amc.kernels import KERNELS
from amc.kernels.dense import Dense
from amc.latency.device import describe_device, kernel_digest
from amc.latency.grid import Floats, thin
from amc.latency.ops import OpTemplate
from amc.latency.table import KernelTimes, LatencyTable, NetworkTime, missing
from amc.latency.trace import trace_ops
from amc.registry import lookup

REPEATS = 15
MORE_REPEATS = 25  # for points that stay uncertain
FULL_GRID = 220  # kernels with no more points than this are timed at every reachable width
TOLERANCE = 0.03  # of the straight lines between the points of a thinned grid
UNCERTAIN = 0.03  # relative half-width of a median's 95% interval above which a point is noisy

Progress = Callable[[int, int, str], None]
Point = tuple[OpTemplate, tuple[int, ...]]


@dataclass(frozen=True)
class KernelRequest:
    """A kernel, and for each of its axes the ascending widths that a search can ask for.

    ``positions`` are its places in the order of the network's operations.
    """

    template: OpTemplate
    reachable: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class DenseNetwork:
    """A whole network to be timed beside its kernels: its ``network_key``, deployed, and inputs."""

    key: str
    network: nn.Module
    inputs: tuple[Tensor, ...]


@dataclass
class _Session:
    """All timings of one sitting: seconds by point, of the reference, and of whole networks."""

    sequence: Sequence[str]  # kernel keys in the order of the network
    dense: Sequence[DenseNetwork]
    progress: Progress
    reference: list[float] = field(default_factory=list)
    networks: dict[str, list[float]] = field(default_factory=dict)
    points: dict[tuple[str, tuple[int, ...]], list[float]] = field(default_factory=dict)

    def time(self, points: Sequence[Point], repeats: int, what: str) -> None:
        """Time every point at least ``repeats`` times, in turns that look like the network."""
        turns = self._turns(points)
        for done, turn in enumerate(turns):
            self.time_turn(turn, repeats)
            self.progress(done + 1, len(turns), what)

    def _turns(self, points: Sequence[Point]) -> list[list[Point]]:
        """Return lists of points in the order of the network's kernels, every point in one or more.

        A kernel that has fewer points than the turns have places for it comes with them again.
        """
        by_kernel: dict[str, list[Point]] = {}
        for point in points:
            by_kernel.setdefault(point[0].key, []).append(point)
        places = {key: max(self.sequence.count(key), 1) for key in by_kernel}
        count = max((-(-len(its) // places[key]) for key, its in by_kernel.items()), default=0)
        endless = {key: cycle(its) for key, its in by_kernel.items()}
        order = [key for key in self.sequence if key in by_kernel]
        return [[next(endless[key]) for key in order] for _ in range(count)]

    def time_turn(self, points: Sequence[Point], repeats: int) -> None:
        """Go through ``points`` ``repeats`` times, then run the dense networks."""
        calls = [(self.samples(point), *prepare(*point)) for point in points]
        reference = Reference()
        for repeat in range(repeats + 1):
            for samples, call, activations in calls:
                refresh(activations)
                start = time.perf_counter()
                call()
                elapsed = time.perf_counter() - start
                if repeat:  # the first call builds the kernel
                    samples.append(elapsed)
            seconds = reference.time()
            if repeat:
                self.reference.append(seconds)
        for dense in self.dense:
            for _ in range(2):
                self.networks.setdefault(dense.key, []).append(
                    timed(lambda d=dense: d.network(*d.inputs))  # type: ignore[misc]
                )

    def samples(self, point: Point) -> list[float]:
        """Return the timings of a point, a list that may be appended to."""
        return self.points.setdefault((point[0].key, point[1]), [])

    def curve(self, template: OpTemplate, dims: Sequence[tuple[int, ...]]) -> Floats:
        """Return the median seconds of a kernel at each of ``dims``."""
        return np.array([np.median(self.points[template.key, d]) for d in dims])


class Reference:
    """The fixed operation by which clocks of different times are compared: one 3x3 convolution."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.rand(32, 32, 14, 14, generator=generator)
        self._x = self._x.to(memory_format=torch.channels_last)
        self._weight = torch.rand(32, 32, 3, 3, generator=generator)
        self._weight = self._weight.to(memory_format=torch.channels_last)

    def time(self) -> float:
        """Return the seconds of one call."""
        refresh([self._x])
        return timed(lambda: torch.conv2d(self._x, self._weight, None, 1, 1))


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def prepare(template: OpTemplate, dims: Sequence[int]) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return the call of a kernel at widths ``dims``, and the activations that it reads."""
    backend: type[Dense] = lookup(KERNELS, template.kernel, "kernel")
    return backend.prepare(template, dims)


def refresh(activations: Sequence[Tensor]) -> None:
    """Write every activation anew, with the same numbers."""
    for tensor in activations:
        if tensor.is_floating_point():
            tensor.mul_(1.0)


@contextmanager
def device_settings(threads: int) -> Iterator[None]:
    """Run under inference mode with ``threads`` threads of torch, and put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def median_interval(samples: Sequence[float]) -> float:
    """Return half the width of the median's 95% interval, relative to the median.

    From order statistics: no distribution is assumed. Infinite for fewer than six samples.
    """
    n = len(samples)
    if n < 6:
        return float("inf")
    ordered = np.sort(samples)
    reach = 0.98 * np.sqrt(n)
    low, high = int(np.floor(n / 2 - reach)), int(np.ceil(n / 2 + reach))
    low, high = max(low, 0), min(high, n - 1)
    return float((ordered[high] - ordered[low]) / 2 / np.median(ordered))


def measure_table(
    requests: Sequence[KernelRequest],
    threads: int,
    table: LatencyTable | None = None,
    dense: Sequence[DenseNetwork] = (),
    progress: Progress = lambda done, total, what: None,
) -> LatencyTable:
    """Return ``table`` (or a new one) with every request measured that it lacks.

    New times are brought to the clock of the table's first session by the reference operation.
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
    session = _Session([key for _, key in places], fresh, progress)
    with device_settings(threads):
        grids = _grids(session, wanted)
        points = [(r.template, dims) for r, grid in grids for dims in product(*grid)]
        session.time(points, REPEATS, "timing kernels")
        _retime(session, points)
        while any(len(session.networks.get(d.key, [])) < 3 * REPEATS for d in fresh):
            session.time_turn([], 1)
        overhead = table.call_overhead_s if table else call_overhead()
    reference = float(np.median(session.reference))
    factor = reference / table.reference_s if table else 1.0
    kernels = {r.template.key: _times(session, r, grid, factor) for r, grid in grids}
    networks = {
        d.key: NetworkTime(
            float(np.median(session.networks[d.key])) / factor,
            _spread(session.networks[d.key]),
            len(session.networks[d.key]),
        )
        for d in fresh
    }
    return (table or _empty(threads, reference, overhead)).merged(kernels, networks)


def _empty(threads: int, reference_s: float, overhead_s: float) -> LatencyTable:
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


def _union(request: KernelRequest, table: LatencyTable | None) -> tuple[tuple[int, ...], ...]:
    """Return the widths to measure: those asked for, and those of the grid that is replaced."""
    known = table.kernels.get(request.template.key) if table else None
    if known is None:
        return request.reachable
    return tuple(
        tuple(sorted({*widths, *marks}))
        for widths, marks in zip(request.reachable, known.grid, strict=True)
    )


def _grids(
    session: _Session, requests: Sequence[KernelRequest]
) -> list[tuple[KernelRequest, tuple[tuple[int, ...], ...]]]:
    """Return a grid a request: all reachable widths, or those that the measured curves need."""
    large = [r for r in requests if np.prod([len(w) for w in r.reachable]) > FULL_GRID]
    profiles = {r.template.key: _profiles(r) for r in large}
    points = dict.fromkeys(
        (r.template, dims) for r in large for line in profiles[r.template.key] for dims in line
    )
    session.time(list(points), 7, "looking at curves")
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


def _retime(session: _Session, points: Sequence[Point]) -> None:
    for _ in range(2):
        noisy = [p for p in points if median_interval(session.samples(p)) > UNCERTAIN]
        session.time(noisy, MORE_REPEATS, "timing noisy kernels again")


def _times(
    session: _Session,
    request: KernelRequest,
    grid: tuple[tuple[int, ...], ...],
    factor: float,
) -> KernelTimes:
    shape = tuple(len(marks) for marks in grid)
    samples = [session.points[request.template.key, dims] for dims in product(*grid)]
    return KernelTimes(
        axes=request.template.axes,
        grid=grid,
        seconds=np.array([np.median(s) for s in samples]).reshape(shape) / factor,
        spread=np.array([_spread(s) for s in samples]).reshape(shape),
        repeats=min(len(s) for s in samples),
        noisy=tuple(i for i, s in enumerate(samples) if median_interval(s) > UNCERTAIN),
    )


def _spread(samples: Sequence[float]) -> float:
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float((high - low) / middle)


def call_overhead(calls: int = 40, repeats: int = 200) -> float:
    """Return what a call costs inside a network beyond its own time here, seconds (may be < 0).

    Measured on a chain of convolutions and ReLUs so small that the calls are all there is.
    """
    layers = [m for _ in range(calls // 2) for m in (nn.Conv2d(4, 4, 1), nn.ReLU())]
    inputs = (torch.ones(1, 4, 2, 2).to(memory_format=torch.channels_last),)
    network = deployed(nn.Sequential(*layers))
    ops = [prepare(op.template, op.dims)[0] for op in trace_ops(network, inputs)]
    inside, alone = [], []
    for _ in range(repeats):
        inside.append(timed(lambda: network(*inputs)))
        alone.append(sum(timed(op) for op in ops))
    return float(np.median(inside) - np.median(alone)) / len(ops)


