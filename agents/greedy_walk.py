"""The greedy walk from the dense network to the budget, by what each site loses at each width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amc.cost import cheapest_widths
from amc.search_task import SearchTask

# A site: what it loses at each of its legal widths, ``[widths]``; losses of sites add up.
Losses = Sequence[NDArray[np.float64]]
# Legal widths from the present one: a table may make the nearest ones no cheaper.
DISTANCES = tuple(sorted({round(2 ** (e / 2)) for e in range(2, 24)} | {1}))


def greedy_widths(task: SearchTask, losses: Losses, per: str | None = None) -> tuple[int, ...]:
    """Return widths ``[L]`` within the budget that lose little by ``losses [L][widths]``.

    From the dense network on, the site and width is taken next that adds the least loss for each
    unit of cost that it saves, until the plan fits; then sites are ``widened``. The cost is the
    field ``per`` of ``Cost``, by default the budgeted one. Where no step saves anything more, it
    goes on from the cheapest plan.
    """
    field = per or task.budget.field
    at = np.array([len(site.widths) - 1 for site in task.sites])
    cost = task.cost_model.costs(widths_at(task, at[None]))
    while not task.budget.within(cost[task.budget.field])[0]:
        nearby = steps(task, at, -1)
        costs = task.cost_model.costs(widths_at(task, nearby)) if len(nearby) else cost
        saves = costs[field] < cost[field] * (1 - 1e-12)
        if not saves.any():
            at = positions_of(task, cheapest_widths(task.cost_model, task.sites, task.budget.field))
            break
        added = total_loss(losses, nearby[saves]) - total_loss(losses, at[None])
        best = int(np.flatnonzero(saves)[np.argmin(added / (cost[field] - costs[field][saves]))])
        at, cost = nearby[best], {name: its[best : best + 1] for name, its in costs.items()}
    return widened(task, losses, at)


def widened(task: SearchTask, losses: Losses, at: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the widths ``[L]`` of positions ``at [L]``, wider where the budget has room for it.

    Step by step, the one is taken that leaves the least loss.
    """
    while len(nearby := steps(task, at, 1)):
        fits = task.budget.within(task.budget_costs(widths_at(task, nearby)))
        if not fits.any():
            break
        at = nearby[fits][int(np.argmin(total_loss(losses, nearby[fits])))]
    return tuple(int(width) for width in widths_at(task, at[None])[0])


def total_loss(losses: Losses, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss ``[B]`` of plans ``[B, L]``, given as positions among each site's widths."""
    return np.asarray(np.sum([its[at[:, t]] for t, its in enumerate(losses)], axis=0))


def steps(task: SearchTask, at: NDArray[np.int64], direction: int) -> NDArray[np.int64]:
    """Return the plans ``[B, L]`` with one site some of the ``DISTANCES`` wider or narrower."""
    rows = []
    for t, site in enumerate(task.sites):
        for far in DISTANCES:
            position = at[t] + direction * far
            if 0 <= position < len(site.widths):
                rows.append(at.copy())
                rows[-1][t] = position
    return np.array(rows, dtype=np.int64).reshape(-1, len(at))


def widths_at(task: SearchTask, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the widths ``[B, L]`` at positions ``[B, L]`` among each site's legal ones."""
    columns = [np.asarray(site.widths)[at[:, t]] for t, site in enumerate(task.sites)]
    return np.stack(columns, axis=1)


def positions_of(task: SearchTask, widths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions ``[L]`` of legal widths ``[L]``."""
    pairs = zip(task.sites, widths, strict=True)
    return np.array([site.widths.index(int(width)) for site, width in pairs])
