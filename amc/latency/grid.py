"""Grids of widths: interpolating between their points, and choosing them from a measured curve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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


def thin(widths: Sequence[int], seconds: Floats, tolerance: float) -> tuple[int, ...]:
    """Return the fewest of ``widths`` (greedily) between which straight lines fit ``seconds``.

    No dropped width is further than ``tolerance``, a relative error, from the line; the first and
    the last width always stay. Stairs, which blocked kernels have, keep both ends of a step.
    """
    kept = {0, len(widths) - 1}
    pending = [(0, len(widths) - 1)]
    while pending:
        left, right = pending.pop()
        inner = np.arange(left + 1, right)
        if len(inner) == 0:
            continue
        share = (np.asarray(widths)[inner] - widths[left]) / (widths[right] - widths[left])
        line = seconds[left] + share * (seconds[right] - seconds[left])
        errors = np.abs(line / seconds[inner] - 1)
        worst = int(np.argmax(errors))
        if errors[worst] > tolerance:
            split = int(inner[worst])
            kept.add(split)
            pending += [(left, split), (split, right)]
    return tuple(widths[i] for i in sorted(kept))
