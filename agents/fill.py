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
    and each site takes the legal width nearest to what it is given. Whole blocks are left as they
    are while scaling all other sites is enough. Of all the plans that this reaches, that of the
    largest scale that fits is returned; where none does, the cheapest plan.
    """
    others = np.array([site.decides != "block" for site in task.sites])
    for scaled in (others, np.ones(len(others), dtype=bool)):
        plans = _scaled(task, shape, scaled)
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


def new_plans(
    count: int, draw: Callable[[], tuple[int, ...]], seen: set[tuple[int, ...]], redraws: int
) -> list[tuple[int, ...]]:
    """Return ``count`` drawn plans that are not among ``seen``, which they join.

    A known plan is drawn anew, ``redraws`` times; then fewer are returned.
    """
    plans: list[tuple[int, ...]] = []
    for _ in range(count):
        widths = next((w for w in (draw() for _ in range(redraws + 1)) if w not in seen), None)
        if widths is None:
            break
        seen.add(widths)
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
