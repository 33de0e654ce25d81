"""The evaluators below the journal: one that prices and scores, and a cache in front of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from amc.cost import Budget, CostModel, cost_of
from amc.errors import InputError
from amc.evaluation import Evaluation, Evaluator, Request
from amc.objective import Objective
from amc.plan import Plan
from amc.sites import Site
from amc.weights import Weights, state_sha256
from amc.worker import Outcome, Work
from amc.workers import Workers


@dataclass(frozen=True)
class Pricing:
    """What turns a score into an evaluation: costs, objective, budget; and what keys depend on."""

    sites: tuple[Site, ...]
    cost_model: CostModel
    objective: Objective
    budget: Budget
    context: str


class ScoringEvaluator:
    """Scores on the workers, prices by the cost model, rewards by the objective."""

    def __init__(self, workers: Workers, pricing: Pricing, weights: Weights | None = None) -> None:
        self._workers, self._pricing = workers, pricing
        self.weights = weights

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order."""
        observed: list[dict[str, object]] = [{} for _ in requests]

        def finished(position: int, seconds: float, worker: str) -> None:
            observed[position] = {"worker": worker, "evaluation_s": round(seconds, 6)}

        parents = {request.parent for request in requests if request.parent is not None}
        if parents and self.weights is not None:
            self.weights.forget_others(parents)  # a generation that was not chosen
        works = [self._work(request) for request in requests]
        outcomes = self._workers.run(works, finished)
        return [
            self._evaluation(request, outcome, seen)
            for request, outcome, seen in zip(requests, outcomes, observed, strict=True)
        ]

    def rerun(self, request: Request) -> Outcome:
        """Return the outcome of one request again, weights included."""
        return self._workers.run([self._work(request)])[0]

    def _work(self, request: Request) -> Work:
        if request.measure:
            raise InputError("measure is not built yet: a search sees predicted latency alone")
        start = None
        if request.parent is not None:
            assert self.weights is not None
            start = self.weights.start(request.parent)
        seed = int(request.digest(self._pricing.context)[:8], 16)
        return Work(request.plan, start, request.finetune, seed)

    def _evaluation(
        self, request: Request, outcome: Outcome, seen: dict[str, object]
    ) -> Evaluation:
        pricing = self._pricing
        cost = cost_of(pricing.cost_model, widths_of(request.plan, pricing.sites))
        finite = math.isfinite(outcome.score)
        score = outcome.score if finite else 0.0
        evaluation = Evaluation(
            key=request.digest(pricing.context),
            request=request,
            score=score,
            cost=cost,
            reward=pricing.objective(score, cost, pricing.budget),
            feasible=finite,
            reason="" if finite else "the network's output is not finite",
            weights_sha256=None if outcome.state is None else state_sha256(outcome.state),
            observed={
                **seen,
                "build_s": round(outcome.build_s, 6),
                "reconstruct_s": round(outcome.reconstruct_s, 6),
                "finetune_s": round(outcome.finetune_s, 6),
                "recover_s": round(outcome.recover_s, 6),
                "score_s": round(outcome.score_s, 6),
            },
        )
        if self.weights is not None:
            self.weights.note(evaluation, outcome.state)
        return evaluation


class CachedEvaluator:
    """Answers equal requests once; the copies are marked ``cached`` and count all the same."""

    def __init__(self, inner: Evaluator, context: str) -> None:
        self._inner, self._context = inner, context
        self._answers: dict[str, Evaluation] = {}

    def note(self, evaluation: Evaluation) -> None:
        """Remember an answer that was made elsewhere, such as one replayed from a journal."""
        self._answers.setdefault(evaluation.key, evaluation)

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order. Measured latency is never from the cache."""
        keys = [request.digest(self._context) for request in requests]
        fresh: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if request.measure or key not in self._answers:
                fresh[key] = request
        for answer in self._inner.evaluate(list(fresh.values())) if fresh else []:
            self._answers[answer.key] = answer
        answers = []
        for key in keys:
            cached = fresh.pop(key, None) is None
            answer = self._answers[key]
            answers.append(replace(answer, cached=True, observed={}) if cached else answer)
        return answers


def widths_of(plan: Plan, sites: Sequence[Site]) -> list[int]:
    """Return how many channels the plan keeps at every site."""
    return [len(plan.choices[site.name].kept) for site in sites]
