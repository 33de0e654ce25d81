"""``knapsack``: the best plan by additive losses, exactly, with coefficients that are searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.analytic import analytic_losses
from agents.base import Agent, require_choice, require_flag, require_number
from agents.fill import NewPlans
from agents.greedy_walk import Losses, greedy_widths, positions_of, total_loss, widened, widths_at
from agents.measured_curves import MeasuredCurves, require_room
from agents.multiple_choice import Knapsack
from agents.uniform import uniform_widths
from amc.errors import InputError
from amc.search_task import SearchTask

Widths = tuple[int, ...]
MEAN = 0.5  # of the coefficients that are drawn, and so those of the first plan
BEYOND = 1.5  # times the room that the budget leaves is priced: true costs may be lower


def knapsack_widths(
    task: SearchTask, losses: Losses, starts: Sequence[Widths], bins: int, linearisations: int
) -> Widths:
    """Return widths ``[L]`` within the budget whose total of ``losses [L][widths]`` is small.

    A site's cost depends on its neighbours' widths, so costs are linearised: that of each width of
    each site alone, the others at those of a reference plan. For these costs a ``Knapsack`` has the
    best plan under every bound on the cost, of which the one that loses least is taken that truly
    fits the budget, by the full cost. It is ``widened`` and is the next reference, until it returns
    or ``linearisations`` are made. So it goes from each of the ``starts``, plans within the budget;
    the best plan of all by ``losses`` is returned, these included. It is optimal for additive
    costs, but for the rounding of costs to ``bins``.
    """
    found = dict.fromkeys(starts)
    for start in starts:
        reference = start
        for _ in range(linearisations):
            plan = _linearised(task, losses, reference, bins)
            if plan is None or plan == reference:
                break
            if plan in found:
                break
            found[plan] = None
            reference = plan
    plans = list(found)
    at = np.stack([positions_of(task, widths) for widths in plans])
    return plans[int(np.argmin(total_loss(losses, at)))]


def _linearised(task: SearchTask, losses: Losses, reference: Widths, bins: int) -> Widths | None:
    """Return the best plan by costs around ``reference``; ``None`` where none of them fits."""
    field = task.budget.field
    here = float(task.budget_costs(np.asarray([reference]))[0])
    costs = [task.width_costs(t, reference)[field] - here for t in range(len(task.sites))]
    least, most = (float(sum(how(its) for its in costs)) for how in (np.min, np.max))
    room = min(BEYOND * (task.budget.limit - here - least), most - least)
    if room <= 0:
        return None
    at = Knapsack(costs, room, bins).solve(losses)
    at = at[np.append(True, (at[1:] != at[:-1]).any(axis=1))]
    at = at[task.budget.within(task.budget_costs(widths_at(task, at)))]
    if not len(at):
        return None
    return widened(task, losses, at[int(np.argmin(total_loss(losses, at)))])


@dataclass
class Search:
    """The coefficients ``[L]`` of the best plan so far, and how the search for others goes on."""

    best: NDArray[np.float64]
    reward: float = -np.inf
    random: int = 0  # vectors still to be drawn at random
    resampled: int = 1  # coefficients that a neighbour draws anew
    failures: int = 0  # evaluations in a row without improvement


class KnapsackAgent(Agent):
    """Exact allocation by additive losses, and SPDY's search for what these leave out (Frantar and
    Alistarh, "SPDY: Accurate pruning with speedup guarantees", ICML 2022, arXiv:2201.13096,
    sections 3.2 and 3.3).

    ``importance`` says what sites lose: ``measured`` takes a share ``measuring`` of the horizon for
    curves of at most ``points`` widths a site; ``analytic`` takes the task's error curves, without
    evaluations. The plan of ``knapsack_widths`` is evaluated. With ``coefficients``, each site's
    losses are multiplied by a number drawn from 0 to 1 before they are solved for again: a share
    ``initial`` of the horizon left for vectors drawn at random, then vectors that differ from the
    best in a share ``resampled`` of the coefficients, one fewer after each ``patience`` evaluations
    in a row without improvement. A plan evaluated before is drawn anew, ``redraws`` times; then the
    search ends early.

    Deviations: losses are measured or analytic, not a quadratic in the sparsity's rank; plans are
    scored, where the paper takes the calibration loss; the search starts from equal coefficients
    too; it draws batches of ``task.walks``; the paper has 100 random vectors and a patience of 100
    among 1,000 and more evaluations; it goes on with single coefficients until the evaluations end.
    """

    def __init__(
        self,
        *,
        importance: str = "measured",
        measuring: float = 0.5,
        points: int = 6,
        coefficients: bool = True,
        initial: float = 0.1,
        resampled: float = 0.1,
        patience: int = 100,
        redraws: int = 20,
        bins: int = 2000,
        linearisations: int = 4,
    ) -> None:
        name = "agents.knapsack"
        require_choice(f"{name}.importance", importance, ("measured", "analytic"))
        require_number(f"{name}.measuring", measuring, 0.0, 0.95)
        require_number(f"{name}.points", points, 1, whole=True)
        require_flag(f"{name}.coefficients", coefficients)
        require_number(f"{name}.initial", initial, 0.0, 1.0)
        require_number(f"{name}.resampled", resampled, 0.0, 1.0)
        require_number(f"{name}.patience", patience, 1, whole=True)
        require_number(f"{name}.redraws", redraws, 0, whole=True)
        require_number(f"{name}.bins", bins, 10, whole=True)
        require_number(f"{name}.linearisations", linearisations, 1, whole=True)
        self.importance, self.measuring, self.points = importance, measuring, points
        self.coefficients, self.initial, self.resampled = coefficients, initial, resampled
        self.patience, self.redraws = patience, redraws
        self.bins, self.linearisations = bins, linearisations

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where there are no losses, or the evaluations could end before."""
        if self.importance == "measured":
            require_room(task, "knapsack", self.measuring)
            return
        if not task.has_error_curves:
            raise InputError(
                "agents.knapsack.importance 'analytic' needs error curves, and this task has no "
                "network to take them from; choose 'measured'"
            )
        _ = task.error_curves

    def search(self, task: SearchTask) -> None:
        """Evaluate the plan of equal coefficients, then those of others until the end."""
        before = len(task.history)
        losses = self._losses(task)
        left = task.horizon - (len(task.history) - before)
        state = Search(
            best=np.full(len(task.sites), MEAN),
            random=round(self.initial * left) if self.coefficients else 0,
            resampled=max(1, math.ceil(self.resampled * len(task.sites))),
        )
        generator = np.random.default_rng(task.seed)
        new = NewPlans(task, 0)
        starts = [uniform_widths(task), greedy_widths(task, losses)]
        first = knapsack_widths(task, losses, starts, self.bins, self.linearisations)
        new.take(first)
        batch = [(state.best, first)]
        while batch:
            evaluations = task.evaluate([task.plan(widths) for _, widths in batch])
            for (vector, _), evaluation in zip(batch, evaluations, strict=True):
                self._learn(state, vector, evaluation.reward if evaluation.feasible else -np.inf)
            if not self.coefficients:
                return
            batch = self._draw(task, losses, first, state, new, generator)

    def _losses(self, task: SearchTask) -> Losses:
        if self.importance == "analytic":
            return analytic_losses(task)
        curves = MeasuredCurves(task)
        curves.measure_evenly(int(self.measuring * task.horizon), self.points)
        return curves.losses()

    def _draw(
        self,
        task: SearchTask,
        losses: Losses,
        first: Widths,
        state: Search,
        new: NewPlans,
        generator: np.random.Generator,
    ) -> list[tuple[NDArray[np.float64], Widths]]:
        """Return up to ``task.walks`` vectors of coefficients with their new plans."""
        batch: list[tuple[NDArray[np.float64], Widths]] = []
        for _ in range(task.walks):
            fewest = len(state.best) if state.random > 0 else state.resampled
            state.random = max(0, state.random - 1)
            for redraw in range(self.redraws + 1):
                kept = generator.permutation(len(state.best))[fewest + redraw :]
                vector = generator.uniform(size=len(state.best))
                vector[kept] = state.best[kept]
                weighted = [c * its for c, its in zip(vector, losses, strict=True)]
                widths = knapsack_widths(task, weighted, [first], self.bins, self.linearisations)
                if new.take(widths):
                    batch.append((vector, widths))
                    break
            else:
                return batch
        return batch

    def _learn(self, state: Search, vector: NDArray[np.float64], reward: float) -> None:
        """Take the reward of the plan of ``vector`` into account."""
        if reward > state.reward:
            state.best, state.reward, state.failures = vector, reward, 0
            return
        state.failures += 1
        if state.failures >= self.patience:
            state.resampled, state.failures = max(1, state.resampled - 1), 0
