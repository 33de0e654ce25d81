"""One run in progress: what all its searches share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from amc.config import SearchConfig
from amc.config_identity import evaluations_of, horizon_of
from amc.config_sections import ObjectiveConfig
from amc.cost import Budget, Cost
from amc.data import Data
from amc.error_curves import curves_of
from amc.errors import InputError
from amc.evaluation import Evaluation, Evaluator, Request
from amc.evaluators import Pricing, RacingEvaluator, ScoringEvaluator
from amc.latency import LatencyTable
from amc.network_cost import NetworkCostModel
from amc.plan import Choice, Plan, digest
from amc.reconstruction.curves import ErrorCurves
from amc.reconstruction.moments import MAX_COLUMNS, MAX_ROWS
from amc.reconstruction.solve import RIDGE
from amc.recovery import reconstructs
from amc.search_task import PlanMaker, SearchTask
from amc.space import SearchSpace
from amc.task import LoadedTask, data_digest
from amc.training import Schedule
from amc.worker import Job
from amc.workers import Limits


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
        penalty = config.infeasible_reward
        return {
            **({"reconstruction": reconstruction} if reconstructs(config.recovery) else {}),
            **({"objective": objective} if config.objective != ObjectiveConfig() else {}),
            **({"search_score": config.score} if config.score != "task" else {}),
            **racing,
            **({} if penalty is None else {"infeasible_reward": penalty}),
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
        # A plan's own widths: what is decided of layers that are gone does not count.
        own = [site.width_of(choices[site.name]) for site in self.space.sites]
        for site, kernel in self.cost_model.kernels(own).items():
            if kernel == "dense" and self.budget.field == "latency_s":
                choices[site] = Choice(1.0, ())
            else:
                choices[site] = replace(choices[site], kernel=kernel)
        return Plan(choices)

    def search_task(
        self, agent: str, seed: int, evaluator: Evaluator, make_plan: PlanMaker
    ) -> SearchTask:
        """Return what ``agent`` may see of its search."""
        return SearchTask(
            sites=self.space.sites,
            cost_model=self.cost_model,
            budget=self.budget,
            evaluator=evaluator,
            plan_maker=make_plan,
            seed=seed,
            evaluations=evaluations_of(self.config, agent),
            horizon=horizon_of(self.config, agent),
            walks=self.config.walks,
            wall=self.config.objective.build().needs_wall(self.budget),
            fine_tune=self.config.evaluation_steps,
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
            self.config.infeasible_reward,
        )

    def limits(self) -> Limits:
        """Return what one evaluation may take."""
        return Limits(self.config.attempts, self.config.evaluation_timeout_s)

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
