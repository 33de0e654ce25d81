"""Plans of a given shape that fill the budget, by cost arithmetic alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from amc.cost import cheapest_widths
from amc.search_task import SearchTask


def fill_budget(task: SearchTask, shape: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the widest plan of the given shape that fits the budget, ``[L]`` widths.

    ``shape`` holds a positive keep ratio a site, ``[L]``; all are scaled by one number, cut at 1,
    and each site takes the legal width nearest to what it is given. Whole blocks stay or go
    as they are given, but where scaling all other sites is not enough, they go one after the other,
    those of the smallest keep ratio first. Of all the plans that this reaches, that of the
    largest scale that fits is returned; where none does, the cheapest plan.
    """
    blocks = [t for t, site in enumerate(task.sites) if site.decides == "block"]
    scaled = np.ones(len(task.sites), dtype=bool)
    scaled[blocks] = False
    lowest = sorted(blocks, key=lambda t: (shape[t], -t))
    for gone in range(len(blocks) + 1):
        shorter = shape.copy()
        shorter[lowest[:gone]] = 0.0
        plans = _scaled(task, shorter, scaled)
        fits = task.budget.within(task.budget_costs(plans))
        if fits.any():
            return tuple(int(width) for width in plans[int(np.argmax(fits))])
    cheapest = cheapest_widths(task.cost_model, task.sites, task.budget.field)
    return tuple(int(width) for width in cheapest)


def _scaled(
    task: SearchTask, shape: NDArray[np.float64], scaled: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the plans ``[B, L]`` that one factor on the sites ``scaled`` reaches, widest first."""
    channels = np.asarray(task.dense_widths, dtype=np.float64)
    full = shape * channels
    # Every scale at which a site comes to the next width (just past the middle between two).
    turns = [
        point / wanted
        for site, wanted, its in zip(task.sites, full, scaled, strict=True)
        for point in (_turning_points(np.asarray(site.widths, dtype=np.float64)) if its else ())
    ]
    scales = np.unique(np.asarray([*turns, 0.0]))[::-1]
    factors = np.where(scaled, scales[:, None], 1.0)
    return nearest_widths(task, np.minimum(factors * full, channels))


class NewPlans:
    """Plans that no earlier one equals, whatever their widths in blocks that are gone."""

    def __init__(self, task: SearchTask, redraws: int) -> None:
        self._task, self._redraws = task, redraws
        self._widths: set[tuple[int, ...]] = set()
        self._plans: set[str] = set()

    def take(self, widths: tuple[int, ...]) -> bool:
        """Return whether the plan of ``widths`` is new; from now on it is not."""
        if widths in self._widths:
            return False
        self._widths.add(widths)
        if all(site.decides != "block" for site in self._task.sites):
            return True
        digest, known = self._task.plan(widths).digest, len(self._plans)
        self._plans.add(digest)
        return len(self._plans) > known

    def draw(self, count: int, draw: Callable[[], tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return ``count`` new plans; a known one is drawn anew, ``redraws`` times, then fewer."""
        plans: list[tuple[int, ...]] = []
        for _ in range(count):
            drawn = (draw() for _ in range(self._redraws + 1))
            widths = next((its for its in drawn if self.take(its)), None)
            if widths is None:
                break
            plans.append(widths)
        return plans


def nearest_widths(task: SearchTask, wishes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return ``[B, L]``: the legal width nearest to each wish (the smaller of two as near)."""
    plans = np.empty(wishes.shape, dtype=np.int64)
    for t, site in enumerate(task.sites):
        widths = np.asarray(site.widths, dtype=np.int64)
        plans[:, t] = widths[np.argmin(np.abs(widths - wishes[:, t, None]), axis=1)]
    return plans


def _turning_points(widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest width, and for each larger one the wish just large enough for it."""
    return np.concatenate([widths[:1], (widths[1:] + widths[:-1]) / 2 * (1 + 1e-9)])
