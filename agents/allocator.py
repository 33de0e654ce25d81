"""The best plan by additive losses: a knapsack problem, with costs made additive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.greedy_walk import Losses, greedy_widths, positions_of, total_loss, widened, widths_at
from agents.multiple_choice import Knapsack
from agents.uniform import uniform_widths
from amc.search_task import SearchTask

Widths = tuple[int, ...]
BEYOND = 1.5  # times the room that the budget leaves is priced: true costs may be lower


class Allocator:
    """Widths within the budget that lose least, by additive losses and costs made additive.

    A site's cost depends on its neighbours' widths, so costs are linearised: that of each width of
    each site alone, the others at those of a reference plan. For these costs a ``Knapsack`` of so
    many ``bins`` has the best plan under every bound on the cost, of which the one that loses least
    is taken that truly fits the budget, by the full cost. It is ``widened`` and is the next
    reference, until a plan comes that was there before, or ``linearisations`` are made. For costs
    that are additive the answer is optimal, but for rounding; for others it need not be.

    ``losses`` are ``[L][widths]``. ``first`` is the plan for them as they are, its first references
    being the uniform and the greedy plan.
    """

    def __init__(
        self, task: SearchTask, losses: Losses, bins: int = 2000, linearisations: int = 4
    ) -> None:
        self._task, self._losses = task, losses
        self._bins, self._linearisations = bins, linearisations
        self._knapsacks: dict[Widths, Knapsack | None] = {}
        self.first = self._best(losses, [uniform_widths(task), greedy_widths(task, losses)])

    def widths(self, coefficients: NDArray[np.float64]) -> Widths:
        """Return widths ``[L]`` for the losses times ``coefficients [L]``, from ``first`` on."""
        pairs = zip(coefficients, self._losses, strict=True)
        return self._best([factor * its for factor, its in pairs], [self.first])

    def _best(self, losses: Losses, starts: Sequence[Widths]) -> Widths:
        """Return the best by ``losses`` of the ``starts`` and of all that they lead to."""
        found = dict.fromkeys(starts)
        for start in starts:
            reference = start
            for _ in range(self._linearisations):
                plan = self._linearised(losses, reference)
                if plan is None or plan in found:
                    break
                found[plan] = None
                reference = plan
        plans = list(found)
        at = np.stack([positions_of(self._task, widths) for widths in plans])
        return plans[int(np.argmin(total_loss(losses, at)))]

    def _linearised(self, losses: Losses, reference: Widths) -> Widths | None:
        """Return the best plan by costs around ``reference``; ``None`` where none of them fits."""
        if reference not in self._knapsacks:
            self._knapsacks[reference] = self._knapsack(reference)
        knapsack, task = self._knapsacks[reference], self._task
        if knapsack is None:
            return None
        at = knapsack.solve(losses)
        at = at[np.append(True, (at[1:] != at[:-1]).any(axis=1))]
        at = at[task.budget.within(task.budget_costs(widths_at(task, at)))]
        if not len(at):
            return None
        return widened(task, losses, at[int(np.argmin(total_loss(losses, at)))])

    def _knapsack(self, reference: Widths) -> Knapsack | None:
        """Return the problem with the costs around ``reference``; ``None`` where it has no room."""
        task = self._task
        here = float(task.budget_costs(np.asarray([reference]))[0])
        field, sites = task.budget.field, range(len(task.sites))
        costs = [task.width_costs(t, reference)[field] - here for t in sites]
        least, most = (float(sum(how(its) for its in costs)) for how in (np.min, np.max))
        room = min(BEYOND * (task.budget.limit - here - least), most - least)
        return Knapsack(costs, room, self._bins) if room > 0 else None
