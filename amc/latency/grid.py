"""Grids of widths: interpolating between their points, and choosing them from a measured curve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def interpolate(grid: Sequence[Sequence[int]], values: Floats, points: Ints) -> Floats:
    """Return the multilinear interpolation ``[B]`` of ``values`` at ``points`` ``[B, axes]``.

    ``values`` has one dimension an axis; ``points`` must lie within the grid. Exact on the grid.
    """
    lower, fraction = [], []
    for axis, marks in enumerate(grid):
        known = np.asarray(marks, dtype=np.float64)
        at = points[:, axis].astype(np.float64)
        low = np.clip(np.searchsorted(known, at, side="right") - 1, 0, max(len(known) - 2, 0))
        width = known[np.minimum(low + 1, len(known) - 1)] - known[low]
        lower.append(low)
        fraction.append(np.divide(at - known[low], width, out=np.zeros_like(at), where=width > 0))
    result = np.zeros(len(points))
    for corner in itertools.product((0, 1), repeat=len(grid)):
        weight = np.ones(len(points))
        index = []
        for axis, upper in enumerate(corner):
            weight = weight * (fraction[axis] if upper else 1 - fraction[axis])
            index.append(np.minimum(lower[axis] + upper, len(grid[axis]) - 1))
        # A corner of no weight may be beyond the last mark; it was clipped, and counts nothing.
        result += weight * values[tuple(index)]
    return result


def monotone(values: Floats) -> Floats:
    """Return ``values`` made to fall nowhere along any axis.

    Halfway between the lowest monotone bound from above and the highest one from below, so that
    noise moves a number up as often as down; what ascends already stays as it is.
    """
    above, below = values, values
    for axis in range(values.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    result: Floats = (above + below) / 2
    return result


def thin(
    widths: Sequence[Sequence[int]], curves: Sequence[Floats], tolerance: float, most: int
) -> tuple[tuple[int, ...], ...]:
    """Return few of the ``widths`` of each axis, between which straight lines fit its curves.

    ``curves[a]`` holds the seconds at ``widths[a]``, ``[n]`` or several curves ``[lines, n]``, the
    other axes at their largest, say. The width furthest from the lines is added, on whichever axis
    it is, until none is further than ``tolerance``, a relative error, or the product grid would
    exceed ``most`` points. The first and the last width always stay. Stairs, which blocked kernels
    have, keep both ends of their steps.
    """
    curves = [np.atleast_2d(curve) for curve in curves]
    kept = [{0, len(marks) - 1} for marks in widths]
    while True:
        worst = max(
            (_furthest(widths[axis], curves[axis], marks, axis) for axis, marks in enumerate(kept)),
            default=(0.0, 0, 0),
        )
        error, axis, index = worst
        grown = prod(len(marks) + (other == axis) for other, marks in enumerate(kept))
        if error <= tolerance or grown > most:
            return tuple(
                tuple(marks[i] for i in sorted(its))
                for marks, its in zip(widths, kept, strict=True)
            )
        kept[axis].add(index)


def _furthest(
    widths: Sequence[int], curves: Floats, kept: set[int], axis: int
) -> tuple[float, int, int]:
    """Return (relative error, axis, index) of the width that straight lines fit worst."""
    at, marks = np.asarray(widths, dtype=np.float64), sorted(kept)
    fits = np.array([np.interp(at, at[marks], curve[marks]) for curve in curves])
    errors = np.abs(fits / curves - 1).max(axis=0)
    index = int(np.argmax(errors))
    return float(errors[index]), axis, index
