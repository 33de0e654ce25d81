"""The multiple-choice knapsack problem, exactly, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.greedy_walk import Losses


class Knapsack:
    """One choice a site, of least total loss under a bound on the sum of their costs.

    ``costs [L][choices]`` are additive, in any unit, and may be negative; only what lies above each
    site's cheapest choice counts. The ``room`` above the sum of the cheapest ones, a positive
    number, is cut into ``bins`` equal parts, and every cost is rounded up to whole parts. So a
    solution never exceeds the bound it is asked for, and loses no more than the best choices whose
    cost is L parts below that bound; where all costs are whole parts it is exact.

    It is Bellman's recursion, as in Frantar and Alistarh, "SPDY", ICML 2022, arXiv:2201.13096,
    section 3.2, who round to the nearest part.
    """

    def __init__(self, costs: Sequence[NDArray[np.float64]], room: float, bins: int) -> None:
        self.bins = bins
        part = room / bins
        # A hair less, so that a cost of whole parts is not rounded up by its last bit.
        whole = [np.ceil((its - its.min()) / part - 1e-9) for its in costs]
        self._parts = [np.minimum(its, bins + 1).astype(np.int64) for its in whole]

    def solve(self, losses: Losses) -> NDArray[np.int64]:
        """Return the best choices for every bound of 0 to ``bins`` parts of room.

        ``losses`` are ``[L][choices]``, finite. The answer, ``[bins + 1, L]``, holds positions
        among each site's choices.
        """
        best = np.zeros(self.bins + 1)  # the least loss of the sites so far, a bound
        taken = np.zeros((len(losses), self.bins + 1), dtype=np.int64)
        for t, (parts, its) in enumerate(zip(self._parts, losses, strict=True)):
            least = np.full(self.bins + 1, np.inf)
            for choice in _undominated(parts, its):
                need = parts[choice]
                if need > self.bins:
                    continue
                reached = best[: self.bins + 1 - need] + its[choice]
                better = reached < least[need:]
                least[need:][better] = reached[better]
                taken[t, need:][better] = choice
            best = least
        return self._traced(taken)

    def _traced(self, taken: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the choices ``[bins + 1, L]`` that led to each bound."""
        left = np.arange(self.bins + 1)
        choices = np.empty((self.bins + 1, len(taken)), dtype=np.int64)
        for t in reversed(range(len(taken))):
            choices[:, t] = taken[t, left]
            left = left - self._parts[t][choices[:, t]]
        return choices


def _undominated(parts: NDArray[np.int64], losses: NDArray[np.float64]) -> list[int]:
    """Return the choices that lose less than every cheaper one, the cheapest first."""
    order = np.lexsort((losses, parts))
    lowest = np.minimum.accumulate(losses[order])
    first = np.append(True, lowest[1:] < lowest[:-1])
    return [int(choice) for choice in order[first]]
