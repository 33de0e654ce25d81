"""Which points of a kernel are timed: more where straight lines between them would err."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod

import numpy as np

from amc.latency.grid import Floats, interpolate, monotone, thin
from amc.latency.ops import OpTemplate
from amc.latency.session import Point, Session

FULL_GRID = 49  # kernels with no more points than this are timed at every reachable width
TOLERANCE = 0.03  # of the straight lines between the points of a thinned grid
MOST_TOLERANCE = 0.10  # where timings scatter, finer grids would follow the scatter
MOST_CANDIDATES = 64  # widths of an axis that are looked at
MOST_SPARSE_CANDIDATES = 9  # the same where nothing falls, so that there are no stairs to find
MOST_POINTS = 180  # of a thinned grid
MOST_SPARSE_POINTS = 100
CURVE_REPEATS = 5
PROBES = 3  # points beside a thinned grid that are timed too, to learn how well it fits
DENSITIES = (1, 20, 35, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 1000)

Grid = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class KernelRequest:
    """A kernel, and for each of its axes the ascending widths that a search can ask for.

    ``positions`` are its places in the order of the network's operations.
    """

    template: OpTemplate
    reachable: Grid
    positions: tuple[int, ...] = (0,)

    @property
    def is_monotone(self) -> bool:
        """Whether more work never takes less time: so of our kernels, not of torch's stairs."""
        return self.template.kernel != "dense"


@dataclass
class Sampled:
    """The points of one kernel: a product ``grid``, and ``probes`` beside it."""

    request: KernelRequest
    grid: Grid
    probes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        """All points, those of the grid in row-major order first."""
        return [(self.request.template, d) for d in [*product(*self.grid), *self.probes]]

    def medians(self, session: Session) -> Floats:
        """Return the median times on the grid, in its shape."""
        times = session.curve(self.request.template, list(product(*self.grid)))
        return times.reshape([len(marks) for marks in self.grid])

    def errors(self, session: Session) -> Floats:
        """Return the relative error of the interpolation at every probe."""
        times = self.medians(session)
        fitted = monotone(times) if self.request.is_monotone else times
        at = np.array(self.probes, dtype=np.int64).reshape(-1, len(self.grid))
        measured = session.curve(self.request.template, self.probes)
        return np.abs(interpolate(self.grid, fitted, at) / measured - 1)


def sample(session: Session, requests: Sequence[KernelRequest]) -> list[Sampled]:
    """Return the points of each request: all reachable widths, or those that its curves need."""
    lines = {r.template.key: _lines(r) for r in requests if _is_large(r)}
    points = dict.fromkeys(
        (r.template, dims)
        for r in requests
        for axis in lines.get(r.template.key, ())
        for line in axis
        for dims in line
    )
    session.time(list(points), CURVE_REPEATS, "looking at curves")
    sampled = []
    for request in requests:
        grid = _candidates(request)
        if request.template.key in lines:
            own = lines[request.template.key]
            grid = thin(
                grid,
                [_curves(session, request, axis) for axis in own],
                _tolerance(session, request, [d for axis in own for line in axis for d in line]),
                MOST_SPARSE_POINTS if request.is_monotone else MOST_POINTS,
            )
        sampled.append(Sampled(request, grid, _probes(_candidates(request), grid)))
    return sampled


def refine(session: Session, sampled: Sequence[Sampled]) -> list[Point]:
    """Add the probes that the grids miss to them; return the points that are now to be timed.

    A probe counts as missed where the error is above twice the tolerance and above what its own
    median is uncertain by.
    """
    points: list[Point] = []
    for its in sampled:
        known, missed = set(its.points), []
        for probe, error in zip(its.probes, its.errors(session), strict=True):
            doubt = session.settled((its.request.template, probe)).interval
            if error > max(2 * TOLERANCE, doubt):
                missed.append(probe)
        for probe in missed:
            finer = tuple(
                tuple(sorted({*marks, width})) for marks, width in zip(its.grid, probe, strict=True)
            )
            if prod(map(len, finer)) <= MOST_POINTS:
                its.grid = finer
                its.probes.remove(probe)
        points += [point for point in its.points if point not in known]
    return points


def _is_large(request: KernelRequest) -> bool:
    several = len(request.reachable) > 1
    return several and prod(map(len, request.reachable)) > FULL_GRID


def _tolerance(
    session: Session, request: KernelRequest, points: Sequence[tuple[int, ...]]
) -> float:
    """Return what the lines may err by: no less than two standard errors of a curve's medians."""
    settled = [session.settled((request.template, dims)) for dims in points]
    # The interquartile range over 1.35 is a standard deviation, and a median's error 1.25 of it.
    errors = [1.25 * its.spread / 1.35 / np.sqrt(len(its.seconds)) for its in settled]
    return min(max(TOLERANCE, 2 * float(np.median(errors))), MOST_TOLERANCE)


def _curves(
    session: Session, request: KernelRequest, lines: Sequence[Sequence[tuple[int, ...]]]
) -> Floats:
    curves = [session.curve(request.template, line) for line in lines]
    return np.array([monotone(c) for c in curves] if request.is_monotone else curves)


def _candidates(request: KernelRequest) -> Grid:
    """Return at most about ``MOST_CANDIDATES`` widths an axis, the first and the last included."""
    if not request.is_monotone:
        return tuple(_some(widths, MOST_CANDIDATES) for widths in request.reachable)
    return tuple(
        widths if axis == "density" else _some(widths, MOST_SPARSE_CANDIDATES)
        for axis, widths in zip(request.template.axes, request.reachable, strict=True)
    )


def _some(widths: Sequence[int], most: int) -> tuple[int, ...]:
    step = -(-len(widths) // most)
    # An odd step meets every remainder of a blocked kernel's block; an even one only its fast ones.
    step += 1 - step % 2
    return tuple(sorted({*widths[::step], widths[-1]}))


def _lines(request: KernelRequest) -> list[list[list[tuple[int, ...]]]]:
    """Return for each axis the points along it, every other axis at its largest width.

    Of a sparse kernel also those with every other axis at its smallest: there calls and packing
    count most.
    """
    grid = _candidates(request)
    ends = [[widths[-1] for widths in grid]]
    if request.is_monotone:
        ends.append([widths[0] for widths in grid])
    return [
        [[(*end[:axis], w, *end[axis + 1 :]) for w in widths] for end in ends]
        for axis, widths in enumerate(grid)
    ]


def _probes(candidates: Grid, grid: Grid) -> list[tuple[int, ...]]:
    """Return a few points in the middle of the grid's cells, none where every width is a mark."""
    middles = []
    for widths, marks in zip(candidates, grid, strict=True):
        between = [
            inside[len(inside) // 2]
            for low, high in pairwise(marks)
            if (inside := [w for w in widths if low < w < high])
        ]
        middles.append(between or list(marks))
    if all(list(m) == list(g) for m, g in zip(middles, grid, strict=True)):
        return []
    picks = [
        tuple(its[(2 * n + 1) * len(its) // (2 * PROBES)] for its in middles) for n in range(PROBES)
    ]
    on_grid = set(product(*grid))
    return [dims for dims in dict.fromkeys(picks) if dims not in on_grid]
