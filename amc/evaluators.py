"""The evaluators around the journal: below it one that prices and scores, and a cache in front of
that; before it, where a search races, one that knows the best so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from amc import faults
from amc.cost import Budget, CostModel, cost_of
from amc.errors import FailedAlike, InputError
from amc.evaluation import Evaluation, Evaluator, Request, best_of
from amc.failures import Failure
from amc.objective import Objective
from amc.plan import Plan
from amc.sites import Site
from amc.weights import Weights, state_sha256
from amc.worker import Outcome, Start, Work
from amc.workers import Workers, outcomes


@dataclass(frozen=True)
class Pricing:
    """What turns a score into an evaluation: costs, objective, budget; and what keys depend on.

    A plan that cannot be scored earns ``infeasible_reward``; ``None``: what score 0 would earn.
    """

    sites: tuple[Site, ...]
    cost_model: CostModel
    objective: Objective
    budget: Budget
    context: str
    infeasible_reward: float | None = None


class ScoringEvaluator:
    """Scores on the workers, prices by the cost model, rewards by the objective.

    With ``reward_to_beat``, requests that compete for the best result race: their evaluation may
    end early once it cannot reach that reward. Those compete that are within the budget and start
    from the trained network as it is. The others are compared among each other, by whoever asks.
    """

    def __init__(self, workers: Workers, pricing: Pricing, weights: Weights | None = None) -> None:
        self._workers, self._pricing = workers, pricing
        self.weights = weights
        self.reward_to_beat: float | None = None

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order."""
        observed: list[dict[str, object]] = [{} for _ in requests]

        def finished(position: int, seconds: float, worker: str, earlier: tuple[str, ...]) -> None:
            again = {"attempts": len(earlier) + 1, "failures": list(earlier)} if earlier else {}
            observed[position] = {"worker": worker, "evaluation_s": round(seconds, 6), **again}
            faults.point("evaluation.finished")

        parents = {request.parent for request in requests if request.parent is not None}
        if parents and self.weights is not None:
            self.weights.forget_others(parents)  # a generation that was not chosen
        starts = self._starts(requests)
        works = [self._work(request, starts) for request in requests]
        outcomes = self._workers.run(works, finished)
        return [
            self._evaluation(request, outcome, seen)
            for request, outcome, seen in zip(requests, outcomes, observed, strict=True)
        ]

    def rerun(self, request: Request) -> Outcome:
        """Return the outcome of one request again, weights included."""
        return outcomes(self._workers.run([self._work(request, self._starts([request]))]))[0]

    def _starts(self, requests: Sequence[Request]) -> dict[str | None, Start]:
        """Return where requests start from, by parent: one object each, to be shipped once."""
        starts: dict[str | None, Start] = {}
        for request in requests:
            if request.parent is not None and request.parent not in starts:
                assert self.weights is not None
                starts[request.parent] = self.weights.start(request.parent)
        return starts

    def _work(self, request: Request, starts: Mapping[str | None, Start]) -> Work:
        if request.measure:
            raise InputError("measure is not built yet: a search sees predicted latency alone")
        start = starts.get(request.parent)
        seed = int(request.digest(self._pricing.context)[:8], 16)
        return Work(request.plan, start, request.finetune, seed, self._needed(request))

    def _needed(self, request: Request) -> float | None:
        """Return the score with which the request would reach the reward; ``None``: no race."""
        competes = request.parent is None and not request.finetune
        if self.reward_to_beat is None or not competes:
            return None
        pricing = self._pricing
        cost = cost_of(pricing.cost_model, widths_of(request.plan, pricing.sites))
        if not pricing.budget.met_by(cost):
            return None
        return pricing.objective.score_for(self.reward_to_beat, cost, pricing.budget)

    def _evaluation(
        self, request: Request, result: Outcome | Failure, seen: dict[str, object]
    ) -> Evaluation:
        evaluation = (
            self._infeasible(request, result, seen)
            if isinstance(result, Failure)
            else self._scored(request, result, seen)
        )
        if self.weights is not None:
            state = None if isinstance(result, Failure) else result.state
            self.weights.note(evaluation, state)
        return evaluation

    def _scored(self, request: Request, outcome: Outcome, seen: dict[str, object]) -> Evaluation:
        pricing = self._pricing
        cost = cost_of(pricing.cost_model, widths_of(request.plan, pricing.sites))
        return Evaluation(
            key=request.digest(pricing.context),
            request=request,
            score=outcome.score,
            cost=cost,
            reward=pricing.objective(outcome.score, cost, pricing.budget),
            weights_sha256=None if outcome.state is None else state_sha256(outcome.state),
            observed={
                **seen,
                "build_s": round(outcome.build_s, 6),
                "reconstruct_s": round(outcome.reconstruct_s, 6),
                "finetune_s": round(outcome.finetune_s, 6),
                "recover_s": round(outcome.recover_s, 6),
                "score_s": round(outcome.score_s, 6),
            },
            task_score=outcome.task_score,
            stopped_after=outcome.stopped_after,
        )

    def _infeasible(
        self, request: Request, failure: Failure, seen: dict[str, object]
    ) -> Evaluation:
        pricing = self._pricing
        cost = cost_of(pricing.cost_model, widths_of(request.plan, pricing.sites))
        reward = pricing.infeasible_reward
        return Evaluation(
            key=request.digest(pricing.context),
            request=request,
            score=0.0,
            cost=cost,
            reward=pricing.objective(0.0, cost, pricing.budget) if reward is None else reward,
            feasible=False,
            reason=failure.reason,
            observed={
                **seen,
                "kind": failure.kind,
                **({"raised": failure.raised} if failure.raised else {}),
            },
        )


class CachedEvaluator:
    """Answers equal requests once; the copies are marked ``cached`` and count all the same.

    Where not ``enabled``, it passes all of them on.
    """

    def __init__(self, inner: Evaluator, context: str, *, enabled: bool = True) -> None:
        self._inner, self._context, self._enabled = inner, context, enabled
        self._answers: dict[str, Evaluation] = {}

    def note(self, evaluation: Evaluation) -> None:
        """Remember an answer that was made elsewhere, such as one replayed from a journal."""
        self._answers.setdefault(evaluation.key, evaluation)

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order. Measured latency is never from the cache."""
        if not self._enabled:
            return self._inner.evaluate(requests)
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


class FailureGuard:
    """Stands between journal and cache, and ends a search whose failures have one cause.

    ``FailedAlike`` is raised by a batch that ends with so many evaluations that are infeasible for
    the same reason, one after the other, cached copies not counted. It is then on no record: once
    the cause is mended, a search that goes on makes it again, and does go on unless all of it fails
    for that reason still.
    """

    IN_A_ROW = 5

    def __init__(self, inner: Evaluator, recorded: Sequence[Evaluation] = ()) -> None:
        """``recorded`` are the evaluations that the journal answers, which come first."""
        self._inner = inner
        self._reason, self._count = "", 0
        for evaluation in recorded:
            self._follow(evaluation)

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order."""
        answers = self._inner.evaluate(requests)
        for answer in answers:
            self._follow(answer)
        live = [answer for answer in answers if not answer.cached]
        if live and self._count >= self.IN_A_ROW:
            told = live[-1].observed.get("raised", self._reason)
            raise FailedAlike(f"{self._count} evaluations in a row failed alike: {told}")
        return answers

    def _follow(self, evaluation: Evaluation) -> None:
        if evaluation.cached:
            return
        alike = not evaluation.feasible and evaluation.reason == self._reason
        self._count = self._count + 1 if alike else int(not evaluation.feasible)
        self._reason = evaluation.reason


class RacingEvaluator:
    """Stands before the journal, and lets each batch race against the best answer before it.

    So what is to be beaten depends on neither the workers nor on which answers are replayed. It
    only rises: an equal request may be given an earlier answer, stopped or not.
    """

    def __init__(self, inner: Evaluator, scoring: ScoringEvaluator, budget: Budget) -> None:
        self._inner, self._scoring, self._budget = inner, scoring, budget
        self._best: Evaluation | None = None

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order."""
        self._scoring.reward_to_beat = None if self._best is None else self._best.reward
        answers = self._inner.evaluate(requests)
        before = [] if self._best is None else [self._best]
        self._best = best_of([*before, *answers], self._budget)
        return answers


def widths_of(plan: Plan, sites: Sequence[Site]) -> list[int]:
    """Return how much the plan keeps at every site, in the unit of the site's widths."""
    return [site.width_of(plan.choices[site.name]) for site in sites]
