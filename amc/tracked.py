"""What is tracked of a search: its parameters once, and the metrics of each evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amc.config import SearchConfig
from amc.cost import Budget
from amc.evaluation import Evaluation, best_of
from amc.run_folder import Search


def points(
    budget: Budget, history: Sequence[Evaluation], first: int, best: Evaluation | None
) -> list[dict[str, float]]:
    """Return the metrics of a search's evaluations from the ``first`` on, counted from 1.

    ``best`` is the best of ``history``. ``best_score`` is the score of the best plan so far, absent
    until there is one.
    """
    new = history[first - 1 :]
    if any(evaluation is best for evaluation in new):
        best = best_of(history[: first - 1], budget)
    rows = []
    for evaluation in new:
        best = best_of([evaluation] if best is None else [best, evaluation], budget)
        row = point(budget, evaluation)
        rows.append(row if best is None else {**row, "best_score": best.score})
    return rows


def point(budget: Budget, evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics of one evaluation."""
    cost = evaluation.cost
    return {
        "score": evaluation.score,
        "reward": evaluation.reward,
        "predicted_latency_ms": 1000 * cost.latency_s,
        "macs": cost.macs,
        "params": cost.params,
        "budget_used": float(getattr(cost, budget.field)) / budget.limit,
        **({} if evaluation.task_score is None else {"task_score": evaluation.task_score}),
        **({} if evaluation.stopped_after is None else {"stopped_after": evaluation.stopped_after}),
    }


def params_of(
    config: SearchConfig,
    search: Search,
    *,
    device: str,
    table_digest: str,
    network_digest: str,
    budget_limit: float,
) -> Mapping[str, Any]:
    """Return every parameter of one search; its folder has them on record too."""
    return {
        **config.model_dump(mode="json", exclude={"agents", "seeds", "tracking_uri"}),
        "agent": {"name": search.agent, **config.agents[search.agent]},
        "seed": search.seed,
        "device": device,
        "table_digest": table_digest,
        "network_digest": network_digest,
        "budget_limit": budget_limit,
    }
