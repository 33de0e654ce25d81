"""The neighbours of a plan: one site narrower, another wider, within the budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents.greedy_walk import Losses, positions_of, steps, total_loss, widths_at
from amc.search_task import SearchTask

CHUNK = 256  # candidates that are priced at once


def exchanges(
    task: SearchTask, losses: Losses, widths: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    """Yield plans ``[L]`` within the budget near ``widths``, the least predicted loss first.

    One site is some of the ``DISTANCES`` narrower, another some wider, or just one of the two.
    Losses ``[L][widths]`` are added up for the prediction. Candidates whose cost, if the two
    changes added up, would be beyond the budget are left out unpriced.
    """
    at = positions_of(task, widths)
    narrower, wider = (np.vstack([at, steps(task, at, direction)]) for direction in (-1, 1))
    here = float(task.budget_costs(widths_at(task, at[None]))[0])
    saved, added = (task.budget_costs(widths_at(task, its)) - here for its in (narrower, wider))
    first, second = np.nonzero(task.budget.within(here + saved[:, None] + added))
    site, other = (np.argmax(its != at, axis=1) for its in (narrower, wider))
    # Row 0 of either is the plan itself, and goes with any but itself.
    real = np.where(first * second > 0, site[first] != other[second], first + second > 0)
    first, second = first[real], second[real]
    loss = total_loss(losses, narrower)[first] + total_loss(losses, wider)[second]
    order = np.argsort(loss, kind="stable")
    for start in range(0, len(order), CHUNK):
        chosen = order[start : start + CHUNK]
        yield from _fitting(task, narrower[first[chosen]] + wider[second[chosen]] - at)


def _fitting(task: SearchTask, at: NDArray[np.int64]) -> Iterator[tuple[int, ...]]:
    """Yield the widths of the positions ``[B, L]`` that fit the budget, in order."""
    plans = widths_at(task, at)
    for plan in plans[task.budget.within(task.budget_costs(plans))]:
        yield tuple(int(width) for width in plan)
