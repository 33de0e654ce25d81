"""``netadapt``: the rule-based loop (Yang et al., ECCV 2018, arXiv:1804.03230, algorithm 1).

As published: the dense network is scored; every iteration lowers the target of the budgeted cost;
every site, alone, is narrowed to its largest legal width that meets the target by the look-up
table; each proposal is fine-tuned for a few steps from the previous winner's weights and scored;
the winner's weights carry over, and the family, the dense network and each iteration's winner, is
a trade-off curve. All proposals of an iteration are one batch.

Deviations:

- The published step (0.025 of the dense cost, times 0.96 an iteration) ends wherever it ends, and
  never below 0.375 of dense. By default (``schedule: fitted``) the step follows from the
  evaluations given, so that the last iteration ends at the budget; it is laid out anew at each
  iteration, from the cost actually reached and the evaluations left over by sites that had nothing
  to propose. ``published`` takes the constants as they are, and says so where they cannot reach the
  budget; ``adapted`` raises the decay just so far that they do.
- A site that cannot meet the target alone is skipped in the published code. With few iterations the
  steps are large and most sites would be. Here it is narrowed together with all others, but
  ``emphasis`` times as strongly. No site goes below its width in the cheapest plan (the floor),
  which fits the budget and is what full strength comes to. So every iteration meets its target.
- Filters stay by the run's criterion, which is by default AMC's: the absolute weights that use a
  channel. Published is the L2 norm of the filters that make it: ``sites.criterion: magnitude_l2``.
- Fine-tuning follows the run's ``short_term``, by default other constants than the published ones.
- Proposals are scored after the run's recovery, on search images; published: as fine-tuning left
  them, on images that were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from agents.base import Agent, require_choice, require_number
from agents.fill import NewPlans, nearest_widths
from amc.cost import cheapest_widths
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.search_task import SearchTask

Widths = tuple[int, ...]
SCHEDULES = ("fitted", "published", "adapted")
SLACK = 1 + 5e-13  # the last bit of a sum may depend on the batch; as in Budget.within


@dataclass(frozen=True)
class Winner:
    """The winner of one iteration. ``target`` is a cost in the budget's unit.

    The dense network is that of iteration 0, of no site; its own cost is its target.
    """

    iteration: int
    site: str | None
    target: float
    widths: Widths
    evaluation: Evaluation


class NetAdaptAgent(Agent):
    """NetAdapt behind ``search(task)``.

    ``rule``: ``ratio`` (default, the published code) takes the winner of least accuracy lost per
    cost saved, ``accuracy`` (the paper's algorithm 1) the most accurate. ``schedule`` is one of
    ``SCHEDULES``; ``step`` (a fraction of the dense cost; not for ``fitted``) and ``decay`` are the
    published constants. ``short_term_steps`` of fine-tuning go before each proposal's score.
    ``family`` lists the winners of the last search from the dense network on, ``task.family`` their
    evaluations. All but the last are wider than the budget, so ``task.best()``, the result, is the
    last or a proposal of higher score within the budget that the rule did not choose.

    Proposals that could not be scored never win; where none could be, the search ends there.

    Evaluations left over are not used: there is nothing to adapt below the budget.
    """

    def __init__(
        self,
        *,
        rule: str = "ratio",
        schedule: str = "fitted",
        step: float = 0.025,
        decay: float = 0.96,
        short_term_steps: int = 10,
        emphasis: float = 3.0,
    ) -> None:
        require_choice("agents.netadapt.rule", rule, ("ratio", "accuracy"))
        require_choice("agents.netadapt.schedule", schedule, SCHEDULES)
        require_number("agents.netadapt.step", step, 1e-4, 1.0)
        require_number("agents.netadapt.decay", decay, 0.5, 1.0)
        require_number("agents.netadapt.short_term_steps", short_term_steps, 1, whole=True)
        require_number("agents.netadapt.emphasis", emphasis, 1.0)
        self.rule, self.decay, self.emphasis = rule, decay, emphasis
        self.schedule, self.step = schedule, step
        self.short_term_steps = short_term_steps
        self.family: list[Winner] = []

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the schedule could not end at the budget.

        It needs an evaluation for the dense network and one a site for one iteration, and as many
        as the horizon in all, but for the published schedule, which ends wherever it ends.
        """
        if self.schedule != "published" and task.horizon > task.evaluations:
            raise InputError(
                f"horizon {task.horizon} is above the {task.evaluations} evaluations, so that "
                "agents.netadapt would stop before the budget; lower horizon or raise evaluations"
            )
        needed = 1 + len(task.sites)
        if task.horizon < needed:
            raise InputError(
                f"evaluations {task.horizon} is too few for agents.netadapt to end at the budget: "
                f"it evaluates the dense network, and each of the {len(task.sites)} sites in one "
                f"iteration; raise evaluations to at least {needed} or exclude sites"
            )

    def search(self, task: SearchTask) -> None:
        """Score the dense network, then iterate until a winner is within the budget.

        A budget that the dense network meets leaves nothing to adapt.
        """
        self.check(task)
        self.family = []
        start = len(task.history)
        widths: Widths = task.dense_widths
        dense_cost = float(task.budget_costs(np.asarray([widths]))[0])
        if message := self.shortfall(task, task.budget.limit / dense_cost):
            task.notify(message)
        decay = self._decay(task, 1.0 - task.budget.limit / dense_cost)
        floor = as_widths(cheapest_widths(task.cost_model, task.sites, task.budget.field))
        (dense,) = task.evaluate([Request(task.plan(widths))])
        self._keep(task, Winner(0, None, dense_cost, widths, dense))
        while not task.fits(widths):
            left = task.horizon - (len(task.history) - start)
            iterations = max(1, left // len(task.sites))
            if self.schedule == "fitted":
                target = self._target(task, widths, iterations)
            else:
                cost = float(task.budget_costs(np.asarray([widths]))[0])
                step = self.step * decay ** self.family[-1].iteration * dense_cost
                target = max(task.budget.limit, cost - step)
            winner = self._iterate(task, self.family[-1], floor, target, dense_cost)
            if winner is None:
                return
            self._keep(task, winner)
            widths = winner.widths

    def _keep(self, task: SearchTask, winner: Winner) -> None:
        self.family.append(winner)
        if winner.evaluation.feasible:  # the dense network may not be
            task.family.append(winner.evaluation)

    def shortfall(self, task: SearchTask, fraction: float) -> str | None:
        """Return why the steps do not add up to a budget of ``fraction`` of dense, or ``None``.

        Steps are nominal: an iteration that overshoots its target, as whole widths do, helps.
        """
        if self.schedule == "fitted":
            return None
        decay = self._decay(task, 1.0 - fraction)
        lowest = 1.0 - (self.step / (1.0 - decay) if decay < 1.0 else float("inf"))
        remedy = "agents.netadapt.step"
        if lowest > fraction and self.schedule == "published":
            return (
                f"steps of {self.step:g} of dense, each {decay:g} of the one before, add up to "
                f"{1.0 - lowest:.3g} at most and end at {lowest:.3g}, above "
                f"budget.{task.budget.key} {fraction:g}; choose agents.netadapt.schedule "
                f"'adapted', or raise {remedy}"
            )
        iterations = self._iterations(task)
        end = 1.0 - self.step * geometric(decay, iterations)
        if end > fraction * (1.0 + 1e-6):
            return (
                f"{task.horizon} evaluations, one of them of the dense network, are {iterations} "
                f"iterations over {len(task.sites)} sites, whose steps end at {end:.3g} of dense, "
                f"above budget.{task.budget.key} {fraction:g}; raise evaluations or {remedy}"
            )
        return None

    def _iterations(self, task: SearchTask) -> int:
        return max(1, (task.horizon - 1) // len(task.sites))

    def _decay(self, task: SearchTask, saving: float) -> float:
        """Return the decay of the steps; ``adapted``: the least from ``self.decay`` on that saves
        the fraction ``saving`` of dense in the iterations that the horizon allows, at most 1.
        """
        iterations = self._iterations(task)
        if self.schedule != "adapted" or self.step * geometric(self.decay, iterations) >= saving:
            return self.decay
        if self.step * iterations <= saving:
            return 1.0
        root = brentq(lambda d: self.step * geometric(d, iterations) - saving, self.decay, 1.0)
        return min(1.0, float(root) * (1.0 + 1e-9))  # the last target must not miss by a rounding

    def _target(self, task: SearchTask, widths: Widths, iterations: int) -> float:
        """Return the next target when ``iterations`` are left, in the unit of the budget.

        R_target(i) = R_{i-1} - dR decay^(i-1), with dR such that the last target is the budget.
        """
        cost = float(task.budget_costs(np.asarray([widths]))[0])
        share = 1.0 / geometric(self.decay, iterations)
        return task.budget.limit if iterations == 1 else cost - share * (cost - task.budget.limit)

    def _iterate(
        self, task: SearchTask, last: Winner, floor: Widths, target: float, dense_cost: float
    ) -> Winner | None:
        """Propose, evaluate in one batch, and return the winner, the one after ``last``.

        ``None`` where no proposal could be scored.
        """
        parent = last.evaluation.key if last.iteration else None  # dense: the network's own weights
        proposals: dict[Widths, str] = {}
        new = NewPlans(task, 0)
        for t, site in enumerate(task.sites):
            proposal = self._propose(task, last.widths, floor, t, target)
            if proposal is not None and new.take(proposal):
                proposals[proposal] = site.name
        evaluations = task.evaluate(
            [
                Request(task.plan(p, parent), parent, self.short_term_steps, seed=task.seed)
                for p in proposals
            ]
        )
        if not any(evaluation.feasible for evaluation in evaluations):
            task.notify(
                f"it ends after {last.iteration} iterations, as none of the next proposals could "
                f"be scored: {evaluations[-1].reason}"
            )
            return None
        best = self._select(evaluations, last.evaluation, task, dense_cost)
        chosen = list(proposals)[best]
        return Winner(last.iteration + 1, proposals[chosen], target, chosen, evaluations[best])

    def _propose(
        self, task: SearchTask, widths: Widths, floor: Widths, t: int, target: float
    ) -> Widths | None:
        """Return the plan in which site ``t`` brings the cost to ``target``; ``None`` for none."""
        smaller = [w for w in task.sites[t].widths if floor[t] <= w < widths[t]]
        if not smaller:
            return None
        candidates = np.repeat(np.asarray([widths]), len(smaller), axis=0)
        candidates[:, t] = smaller
        met = np.flatnonzero(task.budget_costs(candidates) <= target * SLACK)
        if len(met):
            return as_widths(candidates[met[-1]])
        return self._narrow_all(task, widths, floor, t, target)

    def _narrow_all(
        self, task: SearchTask, widths: Widths, floor: Widths, t: int, target: float
    ) -> Widths:
        """Return the widest plan that meets ``target`` with site ``t`` narrowed the most.

        Every site takes the legal width nearest to a fraction f of its present one, and site ``t``
        to f ** emphasis, at least one width less than now; f is the largest of a grid that meets
        the target. At f = 0 this is the floor, which fits the budget.
        """
        fractions = np.linspace(1.0, 0.0, 257)
        powers = np.ones(len(widths))
        powers[t] = self.emphasis
        plans = nearest_widths(task, np.asarray(widths) * fractions[:, None] ** powers)
        next_width = max(w for w in task.sites[t].widths if w < widths[t])
        plans[:, t] = np.minimum(plans[:, t], next_width)
        plans = np.maximum(plans, floor)
        met = task.budget_costs(plans) <= target * SLACK
        return as_widths(plans[int(np.argmax(met))] if met.any() else plans[-1])

    def _select(
        self,
        evaluations: Sequence[Evaluation],
        last: Evaluation,
        task: SearchTask,
        dense_cost: float,
    ) -> int:
        """Return the index of the winner, the first of equals; one of the feasible ones.

        ratio: argmin (acc_0 - acc + 1e-6) / (R_0 - R + 1e-5), R as fractions of the dense cost and
        ``last``, the previous winner, as 0, as in the published code. Where ``last`` has no score,
        as the dense network could not be scored, the best proposal's stands for it.
        """
        feasible = np.asarray([e.feasible for e in evaluations])
        scores = np.asarray([e.score if e.feasible else -np.inf for e in evaluations])
        if self.rule == "accuracy":
            return int(np.argmax(scores))
        field = task.budget.field
        costs = np.asarray([float(getattr(e.cost, field)) for e in evaluations]) / dense_cost
        before = float(getattr(last.cost, field)) / dense_cost
        start = last.score if last.feasible else float(scores.max())
        worth = (start - scores + 1e-6) / (before - costs + 1e-5)
        return int(np.argmin(np.where(feasible, worth, np.inf)))


def geometric(decay: float, terms: int) -> float:
    """Return 1 + decay + decay^2 + ..., so many terms."""
    return sum(decay**i for i in range(terms))


def as_widths(row: NDArray[np.int64]) -> Widths:
    """Return an array's row as a tuple of plain integers."""
    return tuple(int(width) for width in row)
