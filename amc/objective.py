"""Objectives: what an agent is rewarded for, ``(score, cost, budget) -> reward``.

Those of AMC (He et al., ECCV 2018, arXiv:1802.03494), section 3.3, and the plain one without its
budget wall. ``score`` is a fraction, higher is better. Whatever the objective, the result of a
search is the plan of highest reward *within the budget*: a plan beyond it counts as minus infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from amc.cost import BUDGET_KEYS, Budget, Cost
from amc.errors import InputError

UNITS_IN_A_SECOND = 1e9  # latency counts in nanoseconds, so that its logarithm is that of MACs


class Objective(Protocol):
    """What a plan is worth, and whether walks must be kept within the budget for it."""

    def __call__(self, score: float, cost: Cost, budget: Budget) -> float:
        """Return the reward, a finite number."""
        ...

    def score_for(self, reward: float, cost: Cost, budget: Budget) -> float:
        """Return the score that earns ``reward`` at a ``cost`` within the budget.

        A lower score earns less; minus infinity where none does.
        """
        ...

    def needs_wall(self, budget: Budget) -> bool:
        """Return whether every walk must end within the budget, because the reward ignores it."""
        ...


@dataclass(frozen=True)
class ResourceConstrained:
    """The score itself: the budget is the wall's business (AMC, algorithm 1).

    The published ``0.01 acc`` with accuracy in percent is the same number.
    """

    def __call__(self, score: float, cost: Cost, budget: Budget) -> float:
        """Return the score."""
        return score

    def score_for(self, reward: float, cost: Cost, budget: Budget) -> float:
        """Return the reward."""
        return reward

    def needs_wall(self, budget: Budget) -> bool:
        """Return ``True``: nothing else keeps plans within the budget."""
        return True


@dataclass(frozen=True)
class AccuracyGuaranteed:
    """``-error ln(resource)``: a plan loses less by shrinking than by erring.

    ``resource`` is a key of ``BUDGET_KEYS``, by default the budget's own. It counts in MACs for one
    example, parameters, bytes of weights, or nanoseconds a batch; the paper has FLOPs and
    parameters. ``error`` is ``1 - score``.
    """

    resource: str | None = None

    def __call__(self, score: float, cost: Cost, budget: Budget) -> float:
        """Return the reward, at most 0; ``InputError`` for a score that is no fraction."""
        if not score <= 1.0:
            raise InputError(
                f"objective.kind 'accuracy_guaranteed' needs scores of at most 1, but got "
                f"{score:g}; scale the task's score or choose 'resource_constrained'"
            )
        return -(1.0 - score) * self._weight(cost, budget)

    def score_for(self, reward: float, cost: Cost, budget: Budget) -> float:
        """Return the score; minus infinity where the resource is so small that all earn 0."""
        weight = self._weight(cost, budget)
        return 1.0 + reward / weight if weight > 0 else -math.inf

    def _weight(self, cost: Cost, budget: Budget) -> float:
        """Return the logarithm of the resource, at least 0."""
        field = BUDGET_KEYS[self.resource or budget.key]
        amount = float(getattr(cost, field))
        if field == "latency_s":
            amount *= UNITS_IN_A_SECOND
        return math.log(max(amount, 1.0))

    def needs_wall(self, budget: Budget) -> bool:
        """Return whether a bound stands beside the trade: the budget is below the dense cost."""
        return budget.fraction < 1.0


@dataclass(frozen=True)
class AccuracyWithinBudget:
    """The score where the budget holds, else minus infinity; agents are given ``penalty`` for it.

    Minus infinity would spoil every average and gradient, and JSON cannot hold it. A plan beyond
    the budget is scored although its reward is known before: NetAdapt chooses among such plans,
    and people look at their scores along the trade-off.
    """

    penalty: float = -1.0

    def __call__(self, score: float, cost: Cost, budget: Budget) -> float:
        """Return the score or the penalty."""
        return score if budget.met_by(cost) else self.penalty

    def score_for(self, reward: float, cost: Cost, budget: Budget) -> float:
        """Return the reward: within the budget it is the score."""
        return reward

    def needs_wall(self, budget: Budget) -> bool:
        """Return ``False``: agents learn the budget from the penalty."""
        return False
