"""The one seam between deciding and measuring: requests go in, evaluations come out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from amc.cost import Budget, Cost
from amc.plan import Plan, digest


@dataclass(frozen=True)
class Request:
    """One plan to be scored.

    ``parent`` is the digest of an earlier request whose resulting weights this one starts from
    (``None``: the trained network's own); ``finetune`` is a number of training steps before the
    score, on batches drawn by ``seed``; ``measure`` asks for its latency to be timed on the device,
    alone, workers drained.
    """

    plan: Plan
    parent: str | None = None
    finetune: int | None = None
    measure: bool = False
    seed: int = 0

    def digest(self, context: str) -> str:
        """Return the key of cache and journal.

        ``context`` is the digest of all else that the answer depends on: network, data, latency
        table, recovery and training recipe.
        """
        return digest(
            {
                "plan": self.plan.as_json(),
                "parent": self.parent,
                "finetune": self.finetune,
                "measure": self.measure,
                "context": context,
                **({"seed": self.seed} if self.seed else {}),
            }
        )


@dataclass(frozen=True)
class Evaluation:
    """The answer to one request.

    ``score`` is what the search scores by, higher is better: in the task's unit (accuracy or
    agreement, a fraction), or smooth (``amc.scores``), and then ``task_score`` is in the task's
    unit. ``reward`` is the objective's value of ``score``. Where racing ended the evaluation after
    the first ``stopped_after`` images, scores are estimates from these. ``weights_sha256`` names
    the weights that fine-tuning left, where it was asked for. ``observed`` holds what may differ
    between equal runs: times, worker, measured latency.
    """

    key: str
    request: Request
    score: float
    cost: Cost
    reward: float
    feasible: bool = True
    reason: str = ""  # why it is not feasible
    weights_sha256: str | None = None
    cached: bool = False
    observed: dict[str, Any] = field(default_factory=dict)
    task_score: float | None = None
    stopped_after: int | None = None

    @property
    def in_task_unit(self) -> float:
        """The score in the task's unit."""
        return self.score if self.task_score is None else self.task_score


def best_of(evaluations: Iterable[Evaluation], budget: Budget) -> Evaluation | None:
    """Return the feasible evaluation of highest reward; of equals the cheaper or earlier.

    One that racing stopped is left out, whatever its estimate: it had lost to another one.
    """
    return max(
        (e for e in evaluations if e.feasible and not e.stopped_after and budget.met_by(e.cost)),
        key=lambda e: (e.reward, -float(getattr(e.cost, budget.field))),
        default=None,
    )


class Evaluator(Protocol):
    """Answers batches of requests, in the order of the requests."""

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in the same order."""
        ...
