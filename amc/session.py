"""One run in progress: what all its searches share, and how one of them is made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from amc.config import SearchConfig
from amc.config_sections import ObjectiveConfig
from amc.cost import BUDGET_KEYS, Budget, Cost
from amc.data import Data
from amc.error_curves import curves_of
from amc.errors import BudgetSpent, InputError
from amc.evaluation import Evaluation, Evaluator, Request
from amc.evaluators import CachedEvaluator, Pricing, RacingEvaluator, ScoringEvaluator
from amc.journal import Journal, JournaledEvaluator
from amc.latency import LatencyTable
from amc.network_cost import NetworkCostModel
from amc.plan import Choice, Plan, digest
from amc.reconstruction.curves import ErrorCurves
from amc.reconstruction.moments import MAX_COLUMNS, MAX_ROWS
from amc.reconstruction.solve import RIDGE
from amc.recovery import reconstructs
from amc.reporting import Reporter
from amc.run_folder import Search
from amc.search_task import PlanMaker, SearchTask, seed_everything
from amc.space import SearchSpace
from amc.task import LoadedTask, data_digest
from amc.tracking import Tracker
from amc.training import Schedule
from amc.weights import Weights
from amc.worker import Job, State, state_tensors
from amc.workers import Workers


class SearchMethod(Protocol):
    """What the core needs of an agent; ``agents.base`` has the contract in full."""

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the method cannot work with this task."""

    def search(self, task: SearchTask) -> None:
        """Search until done, or until ``BudgetSpent``."""


@dataclass(frozen=True)
class Session:
    """What all searches of a run share. ``task`` has no test split: no search can reach it."""

    config: SearchConfig
    task: LoadedTask
    space: SearchSpace
    cost_model: NetworkCostModel
    table: LatencyTable
    budget: Budget
    dense_cost: Cost

    @property
    def facts(self) -> dict[str, Any]:
        """Everything beside the plan that an evaluation depends on, by name."""
        config, task = self.config, self.task
        reconstruction = {"max_rows": MAX_ROWS, "max_columns": MAX_COLUMNS, "ridge": RIDGE}
        objective = config.objective.model_dump(mode="json")
        sparse = any(site.decides == "weights" for site in self.space.sites)
        racing = {} if config.racing is None else {"racing": config.racing.model_dump()}
        return {
            **({"reconstruction": reconstruction} if reconstructs(config.recovery) else {}),
            **({"objective": objective} if config.objective != ObjectiveConfig() else {}),
            **({"search_score": config.score} if config.score != "task" else {}),
            **racing,
            **({"weight_criterion": config.sites.weight_criterion} if sparse else {}),
            "task": task.name,
            "network_digest": task.network_digest,
            "data_digest": data_digest(task.train, task.search),
            "table_digest": self.table.digest,
            "batch_size": config.latency.batch_size,
            "threads": config.latency.threads,
            "space": config.space,
            "recovery": config.recovery,
            "calibration_images": config.calibration_images,
            "batch_norm_images": config.batch_norm_images,
            "fold_batch_norm": config.fold_batch_norm,
            "fast_scoring": config.fast_scoring,
            "search_images": len(task.search),
            "score": task.score_name,
            "short_term": facts_of(config.short_term.build()),
            "torch": torch.__version__,
            "budget": dict(config.budget),
        }

    def job(self) -> Job:
        """Return what every worker is given."""
        return Job(
            network=self.task.network,
            groups=self.space.groups,
            calibration=self.calibration,
            train=self.task.train,
            search=self.task.search,
            score=self.task.score,
            recovery=self.config.recovery,
            short_term=self.config.short_term.build(),
            orders=self.space.orders if reconstructs(self.config.recovery) else {},
            batch_norm_images=self.config.batch_norm_images,
            fold_batch_norm=self.config.fold_batch_norm,
            search_score=self.config.score,
            racing=None if self.config.racing is None else self.config.racing.build(),
            fast_scoring=self.config.fast_scoring,
            weight_criterion=self.config.sites.weight_criterion,
        )

    @property
    def calibration(self) -> Data:
        """The training examples that recovery may look at."""
        return self.task.train[: self.config.calibration_images]

    @cached_property
    def error_curves(self) -> ErrorCurves:
        """What each site loses at each width, from the calibration examples; takes seconds.

        Raises ``InputError`` where the examples lead to numbers that are not finite.
        """
        calibration = self.calibration.channels_last()
        criterion = self.config.sites.weight_criterion
        try:
            curves, _ = curves_of(self.task.network, self.space, calibration, criterion)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise InputError(
                f"there are no error curves, as the layers' inputs on the {len(calibration)} "
                f"calibration examples cannot be solved for: {error}"
            ) from error
        return curves

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the space's plan of given widths, each sparse layer with its fastest kernel.

        Under a latency budget a layer that would run no faster than dense stays dense: zeros
        that save nothing only cost accuracy.
        """
        plan = self.space.plan(widths, weights, within)
        choices = dict(plan.choices)
        for site, kernel in self.cost_model.kernels(widths).items():
            if kernel == "dense" and self.budget.field == "latency_s":
                choices[site] = Choice(1.0, ())
            else:
                choices[site] = replace(choices[site], kernel=kernel)
        return Plan(choices)

    def evaluations_of(self, agent: str) -> int:
        """Return how many evaluations the agent gets: its own ``evaluations``, or the run's."""
        return int(self.config.agents[agent].get("evaluations", self.config.evaluations))

    def search_task(
        self, agent: str, seed: int, evaluator: Evaluator, make_plan: PlanMaker
    ) -> SearchTask:
        """Return what ``agent`` may see of its search."""
        evaluations = self.evaluations_of(agent)
        own = self.config.agents[agent]
        laid_out_for = own.get("evaluations") or self.config.horizon or evaluations
        return SearchTask(
            sites=self.space.sites,
            cost_model=self.cost_model,
            budget=self.budget,
            evaluator=evaluator,
            plan_maker=make_plan,
            seed=seed,
            evaluations=evaluations,
            horizon=int(own.get("horizon") or laid_out_for),
            walks=self.config.walks,
            wall=self.config.objective.build().needs_wall(self.budget),
            curve_maker=lambda: self.error_curves,
        )

    def pricing(self) -> Pricing:
        """Return what turns scores into evaluations."""
        return Pricing(
            self.space.sites,
            self.cost_model,
            self.config.objective.build(),
            self.budget,
            digest(self.facts),
        )

    def racing(self, evaluator: Evaluator, scoring: ScoringEvaluator) -> Evaluator:
        """Return ``evaluator``, in whose depth ``scoring`` is, racing where the run is to."""
        if self.config.racing is None:
            return evaluator
        return RacingEvaluator(evaluator, scoring, self.budget)

    def unevaluated_task(self, agent: str) -> SearchTask:
        """Return a task for ``Agent.check``, which evaluates nothing."""
        return self.search_task(agent, 0, _NoEvaluator(), lambda widths, _: self.plan(widths))


def facts_of(schedule: Schedule) -> dict[str, Any]:
    """Return the recipe by name; of what journals did not name at first, what is not as it was."""
    facts = asdict(schedule)
    unchanged = [key for key in ("nesterov", "cosine") if facts[key]]
    return {key: value for key, value in facts.items() if key not in unchanged}


class _NoEvaluator:
    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        raise RuntimeError("an agent's check must evaluate nothing")


@dataclass(frozen=True)
class Found:
    """What one search came to: its evaluations, the winner and the weights of its score.

    ``best`` is ``None`` where no evaluation met the budget; ``family`` is ``SearchTask.family``.
    """

    search: Search
    history: Sequence[Evaluation]
    best: Evaluation | None
    state: State | None
    search_s: float
    family: Sequence[Evaluation] = ()


def run_search(
    session: Session,
    search: Search,
    method: SearchMethod,
    workers: Workers,
    reporter: Reporter,
    tracker: Tracker,
) -> Found:
    """Make one search, answering from its journal what is already there; return what it found.

    Raises ``InputError`` where the journal belongs to other facts. The weights of the winner and of
    the family are on disk afterwards.
    """
    pricing = session.pricing()
    scoring = ScoringEvaluator(workers, pricing)
    weights = scoring.weights = Weights(search.folder / "weights", scoring.rerun)
    cache = CachedEvaluator(scoring, pricing.context, enabled=session.config.cache)
    journal = Journal(search.journal, session.facts)
    for evaluation in journal.records:
        weights.note(evaluation)
        cache.note(evaluation)

    def make_plan(widths: Sequence[int], parent: str | None) -> Plan:
        if parent is None:
            return session.plan(widths)
        start = weights.start(parent)
        return session.plan(widths, state_tensors(start.state), start.plan)

    evaluator = session.racing(JournaledEvaluator(cache, journal), scoring)
    task = session.search_task(search.agent, search.seed, evaluator, make_plan)
    bar = reporter.task(f"{search.agent} seed {search.seed}", task.evaluations)
    task.on_batch = lambda batch: _report(session, task, batch, bar, tracker)
    task.notify = lambda message: reporter.message(f"{search.agent} seed {search.seed}: {message}")
    seed_everything(digest_seed(search))
    begin = time.perf_counter()
    with bar, contextlib.suppress(BudgetSpent):
        method.search(task)
    elapsed_s, best = time.perf_counter() - begin, task.best()
    for member in task.family:
        if member.weights_sha256:
            weights.start(member.key)
    state = weights.start(best.key).state if best and best.weights_sha256 else None
    return Found(search, task.history, best, state, elapsed_s, task.family)


def digest_seed(search: Search) -> int:
    """Return the seed of the global generators: by seed and agent."""
    return int(digest([search.agent, search.seed])[:8], 16)


def _report(
    session: Session, task: SearchTask, batch: list[Evaluation], bar: Any, tracker: Tracker
) -> None:
    best = task.best()
    note = f"best {100 * best.in_task_unit:.2f}%" if best else "no plan within the budget yet"
    if stopped := stopped_early(task.history):
        note += f", {stopped} stopped early"
    bar.advance(len(batch), note)
    rows = [point(session, e) for e in batch]
    if best is not None:
        rows[-1]["best_score"] = best.score
    tracker.log_batch(len(task.history) - len(batch) + 1, rows)


def stopped_early(history: Sequence[Evaluation]) -> int:
    """Return how many evaluations racing ended, without requests answered from the cache."""
    return sum(e.stopped_after is not None and not e.cached for e in history)


def point(session: Session, evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics of one evaluation, as tracked and drawn."""
    cost = evaluation.cost
    return {
        "score": evaluation.score,
        "reward": evaluation.reward,
        "predicted_latency_ms": 1000 * cost.latency_s,
        "macs": cost.macs,
        "params": cost.params,
        "budget_used": float(getattr(cost, BUDGET_KEYS[session.budget.key])) / session.budget.limit,
        **({} if evaluation.task_score is None else {"task_score": evaluation.task_score}),
        **({} if evaluation.stopped_after is None else {"stopped_after": evaluation.stopped_after}),
    }


def tracked_params(session: Session, search: Search) -> Mapping[str, Any]:
    """Return every parameter of one search, for the tracker."""
    config = session.config.model_dump(mode="json", exclude={"agents", "seeds", "tracking_uri"})
    return {
        **config,
        "agent": {"name": search.agent, **session.config.agents[search.agent]},
        "seed": search.seed,
        "device": str(session.table.device.get("cpu", "")),
        "table_digest": session.table.digest,
        "network_digest": session.task.network_digest,
    }


def folder_for(config: SearchConfig) -> Path:
    """Return the folder of a run that was given none: by task and time of start."""
    return Path("runs") / f"{config.task.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
