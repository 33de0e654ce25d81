"""The best score or reward so far against evaluations, over several searches: median and spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc.cost import Budget
from amc.evaluation import Evaluation, best_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """How the best values so far of ``searches`` searches are spread, after each evaluation.

    Every array is ``[evaluations]``; it is NaN until each of the searches has found a plan within
    the budget. Quartiles are interpolated between searches.
    """

    searches: int
    median: Floats
    lower_quartile: Floats
    upper_quartile: Floats
    lowest: Floats
    highest: Floats

    @staticmethod
    def of(values: Sequence[Sequence[float | None]]) -> Spread:
        """Return the spread of ``values[search][evaluation]``, ``None`` beyond the budget.

        A search that ended before the longest one keeps its best from then on.
        """
        longest = max(map(len, values))
        best = np.full((len(values), longest), np.nan)
        for row, one in zip(best, values, strict=True):
            row[: len(one)] = [np.nan if b is None else b for b in best_so_far(one)]
            row[len(one) :] = row[len(one) - 1]
        quartiles = np.quantile(best, (0.0, 0.25, 0.5, 0.75, 1.0), axis=0)
        lowest, lower, median, upper, highest = quartiles
        return Spread(len(values), median, lower, upper, lowest, highest)

    def as_json(self) -> dict[str, Any]:
        """Return the number of searches and each array as a list, ``None`` for NaN."""
        arrays = (field.name for field in fields(self) if field.name != "searches")
        return {
            "searches": self.searches,
            **{
                name: [None if np.isnan(v) else float(v) for v in getattr(self, name)]
                for name in arrays
            },
        }


def best_so_far(values: Sequence[float | None]) -> list[float | None]:
    """Return the highest value up to each position, ``None`` before the first one."""
    best: float | None = None
    history: list[float | None] = []
    for value in values:
        if value is not None and (best is None or value > best):
            best = value
        history.append(best)
    return history


def within(history: Sequence[Evaluation], budget: Budget) -> list[Evaluation | None]:
    """Return the evaluations, ``None`` in place of those that no winner can be taken from."""
    return [e if best_of([e], budget) is not None else None for e in history]


def curves_of(
    histories: Mapping[str, Sequence[Sequence[Evaluation | None]]],
) -> tuple[dict[str, Spread], dict[str, Spread] | None]:
    """Return the spread of scores in the task's unit and, where they differ, of rewards, by label.

    ``histories[label]`` has for each search what ``within`` returns.
    """
    flat = [e for own in histories.values() for one in own for e in one if e is not None]

    def spreads(value: Callable[[Evaluation], float]) -> dict[str, Spread]:
        return {
            label: Spread.of([[None if e is None else value(e) for e in one] for one in own])
            for label, own in histories.items()
        }

    scores = spreads(lambda e: e.in_task_unit)
    same = all(e.reward == e.in_task_unit for e in flat)
    return scores, None if same else spreads(lambda e: e.reward)
