"""``KernelTimes``: the measured times of one kernel, and what lies between its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from amc.latency.errors import refused, shown
from amc.latency.grid import Floats, Ints, interpolate, monotone
from amc.latency.part import Part

WIDEST = 2**31
LONGEST_S = 1e6


@dataclass(frozen=True)
class KernelTimes:
    """Times of one kernel on the product of ``grid``, one tuple of ascending widths an axis.

    ``seconds`` are medians and ``spread`` the interquartile range divided by the median, both of
    the grid's shape; ``repeats`` is the number of timings a point; ``noisy`` lists the points
    (positions in row-major order) whose median stayed uncertain.
    ``what`` describes the kernel (``amc.latency.operation.described``). ``is_monotone`` says that
    more work is never predicted to take less time. ``caches`` has ``widths``, ``warm_s`` and
    ``cold_s``: the largest point called at once again, and after other data filled the caches;
    ``fit_error`` is the largest relative error of the interpolation at points beside the grid that
    were measured too, ``None`` where there is nothing between the grid's points.
    """

    axes: tuple[str, ...]
    grid: tuple[tuple[int, ...], ...]
    seconds: Floats
    spread: Floats
    repeats: int
    noisy: tuple[int, ...] = ()
    what: Mapping[str, Any] = field(default_factory=dict)
    is_monotone: bool = False
    caches: Mapping[str, Any] = field(default_factory=dict)
    fit_error: float | None = None

    def called(self, overhead_s: float) -> KernelTimes:
        """Return the times with what a call costs inside a network, which may be below 0.

        A call on the smallest operands still takes some time.
        """
        return replace(self, seconds=np.maximum(self.seconds + overhead_s, self.seconds / 4))

    @cached_property
    def fitted(self) -> Floats:
        """The seconds that predictions interpolate."""
        return monotone(self.seconds) if self.is_monotone else self.seconds

    def at(self, dims: Ints) -> Floats:
        """Return the seconds ``[B]`` at widths ``dims`` ``[B, axes]``; raises outside the grid."""
        for axis, marks in enumerate(self.grid):
            outside = np.flatnonzero((dims[:, axis] < marks[0]) | (dims[:, axis] > marks[-1]))
            if len(outside):
                wrong = dims[outside[0]]
                raise refused(
                    f"width {self.axes[axis]} = {wrong[axis]} was never measured: the table covers "
                    f"{marks[0]} to {marks[-1]}; the nearest measured point is "
                    f"{self.nearest(wrong.tolist())}; measure again with `amc measure` for this "
                    "network and search space"
                )
        return interpolate(self.grid, self.fitted, dims)

    def nearest(self, dims: Sequence[int]) -> str:
        """Return in words the measured point nearest to ``dims``."""
        index = tuple(
            min(range(len(marks)), key=lambda i: abs(marks[i] - want))
            for marks, want in zip(self.grid, dims, strict=True)
        )
        widths = [
            f"{axis} {marks[i]}" for axis, marks, i in zip(self.axes, self.grid, index, strict=True)
        ]
        what = [
            f"{self.what[name]}"
            if name in {"operation", "pattern"}
            else f"{name} {self.what[name]}"
            for name in self.what
            if name not in {"kernel", "layout", "dtype"}
        ]
        return f"{', '.join([*what, *widths])}: {1e6 * self.seconds[index]:.1f} us"

    def as_json(self) -> dict[str, Any]:
        """Return the times as JSON values, to the nanosecond."""
        return {
            "what": dict(self.what),
            "axes": list(self.axes),
            "grid": [list(marks) for marks in self.grid],
            "seconds": np.round(self.seconds, 9).tolist(),
            "spread": np.round(self.spread, 4).tolist(),
            "repeats": self.repeats,
            "noisy": list(self.noisy),
            "is_monotone": self.is_monotone,
            "caches": {
                name: round(v, 9) if isinstance(v, float) else v for name, v in self.caches.items()
            },
            "fit_error": None if self.fit_error is None else round(self.fit_error, 4),
        }

    @staticmethod
    def from_json(value: Part) -> KernelTimes:
        """Return what ``as_json`` wrote; ``ValueError`` where shapes or numbers are impossible."""
        axes, fit_error = tuple(axis.text() for axis in value["axes"].items()), value["fit_error"]
        grid = tuple(_marks(marks) for marks in value["grid"].items())
        if len(axes) != len(grid):
            rule = f"must hold as many as axes, which is {shown(list(axes))}"
            raise value["grid"].refused(rule)
        seconds = value["seconds"].numbers(value["grid"], LONGEST_S, above=0)
        return KernelTimes(
            axes=axes,
            grid=grid,
            seconds=seconds,
            spread=value["spread"].numbers(value["grid"], LONGEST_S, above=-1e-12),
            repeats=value["repeats"].whole(0, WIDEST),
            noisy=tuple(i.whole(0, seconds.size - 1) for i in value["noisy"].items()),
            what=value["what"].plain(),
            is_monotone=value["is_monotone"].truth(),
            caches=value["caches"].plain(),
            fit_error=None if fit_error.value is None else fit_error.number(LONGEST_S),
        )


def _marks(part: Part) -> tuple[int, ...]:
    marks = tuple(item.whole(1, WIDEST - 1) for item in part.items())
    if not marks or list(marks) != sorted(set(marks)):
        raise part.refused("must list ascending widths, each once")
    return marks
