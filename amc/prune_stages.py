"""Iterative pruning: the narrower and narrower networks on the way from dense to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from amc.compress import Kept, kept_of
from amc.plan import Plan
from amc.reconstruction.consumers import Orders


@dataclass(frozen=True)
class Stage:
    """Train for ``steps`` with ``kept``, when ``level`` of what the plan removes is gone."""

    level: float
    kept: Kept
    steps: int


def stages_of(
    plan: Plan, orders: Orders, levels: Sequence[float], steps: Sequence[int]
) -> tuple[Stage, ...]:
    """Return a stage a level, each with a part of the channels of the one before.

    ``orders`` are those of ``removal_orders``; the last stage, of level 1, is the plan.
    """
    stages = []
    for level, count in zip(levels, steps, strict=True):
        kept = {}
        for site, left in kept_of(plan).items():
            order = orders[site]
            width = len(order) - round(level * (len(order) - len(left)))
            kept[site] = tuple(sorted(order[:width]))
        stages.append(Stage(level, kept, count))
    return tuple(stages)


def removal_orders(plan: Plan, importance: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return each site's channels, the last to be removed first.

    Those that the plan keeps come before the others; both by falling ``importance``, ``[channels]``
    a site, and among equals by index.
    """
    orders = {}
    for site, left in kept_of(plan).items():
        ranked = importance[site].argsort(descending=True, stable=True).tolist()
        kept = set(left)
        orders[site] = (*(c for c in ranked if c in kept), *(c for c in ranked if c not in kept))
    return orders
