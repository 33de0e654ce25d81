"""The one seam between deciding and measuring: requests go in, evaluations come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from amc.cost import Cost
from amc.plan import Plan, digest


@dataclass(frozen=True)
class Request:
    """One plan to be scored.

    ``parent`` is the digest of an earlier request whose resulting weights this one starts from
    (``None``: the trained network's own); ``finetune`` is a number of training steps before the
    score; ``measure`` asks for its latency to be timed on the device, alone, workers drained.
    """

    plan: Plan
    parent: str | None = None
    finetune: int | None = None
    measure: bool = False

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
            }
        )


@dataclass(frozen=True)
class Evaluation:
    """The answer to one request.

    ``score`` is in the task's unit, higher is better (accuracy or agreement, a fraction);
    ``reward`` is the objective's value of it. ``weights_sha256`` names the weights that fine-tuning
    left, where it was asked for. ``observed`` holds what may differ between equal runs: times,
    worker, measured latency.
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


class Evaluator(Protocol):
    """Answers batches of requests, in the order of the requests."""

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in the same order."""
        ...
