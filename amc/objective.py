"""Objectives: what an agent is rewarded for, ``(score, cost, budget) -> reward``."""

from __future__ import annotations

from collections.abc import Callable

from amc.cost import Budget, Cost

Objective = Callable[[float, Cost, Budget], float]


def resource_constrained(score: float, cost: Cost, budget: Budget) -> float:
    """Return the score: feasibility is the budget wall's business (AMC, section 3.3).

    The published ``0.01 acc`` with accuracy in percent is the same number.
    """
    return score
