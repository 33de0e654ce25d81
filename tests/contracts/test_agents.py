"""What every agent in the registry owes, on a toy problem with a known optimum."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import numpy as np
import pytest
import torch

from agents import AGENTS
from agents.base import Agent
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent, InputError
from amc.evaluation import Request
from amc.evaluators import CachedEvaluator, FailureGuard, Pricing, ScoringEvaluator
from amc.failures import as_score
from amc.journal import Journal
from amc.objective import ResourceConstrained
from amc.registry import lookup
from amc.replay import JournaledEvaluator
from amc.search_task import SearchTask, seed_everything
from amc.sites import Site
from amc.weights import Weights
from amc.worker import Outcome, Work, Worker
from amc.workers import FinalWork, Finished, attempt
from envs.vector import PruningVecEnv
from tests.toy import TIGHT, ToyEvaluator, toy_optimum, toy_scores
from tests.toy import toy_task as toy_task_with_or_without

# How far from the known optimum an agent may end, as a fraction of the uniform plan's distance;
# a newcomer without an entry must not be worse than uniform.
GAP = {
    "ddpg": 0.3,
    "td3": 0.4,
    "sac": 0.4,
    "tqc": 0.4,
    "crossq": 0.6,
    "netadapt": 0.1,
    "uniform": 1.0,
    "random_search": 0.7,
    "analytic": 0.2,
    "evolution": 0.2,
    "sensitivity": 0.5,
    "greedy": 0.2,
    "knapsack": 0.1,
    "shallow": 3.0,  # slopes that nobody fitted to the task at hand
    "deep": 1.3,
    "tpe": 0.2,
    "cma_es": 0.4,
    "gp": 0.2,
}
# Smaller networks, so that no test takes long.
SMALLER: dict[str, dict[str, Any]] = {
    "sac": {"hidden": 64},
    "tqc": {"hidden": 64},
    "crossq": {"hidden": 64, "critic_hidden": 64},
    "gp": {"points": 64},
}
LEARNERS = ["ddpg", "td3", "sac", "tqc", "crossq"]
ROOT = Path(__file__).resolve().parents[2]
# Those whose plans depend on the seed.
DRAWING = [*LEARNERS, "random_search", "evolution", "knapsack", "tpe", "cma_es", "gp"]
SEARCHERS = [name for name in AGENTS if name != "uniform"]


toy_task = partial(toy_task_with_or_without, curves=True)


def make(name: str, **options: Any) -> Agent:
    agent: Agent = lookup(AGENTS, name, "agent")(**options)
    return agent


def run(name: str, task: SearchTask, *, disturb: bool = False) -> list[Request]:
    """Search as the application does; return the requests in order."""
    assert isinstance(task.evaluator, ToyEvaluator)
    task.evaluator.disturb = disturb
    agent = make(name, **SMALLER.get(name, {}))
    agent.check(task)
    seed_everything(task.seed)
    with contextlib.suppress(BudgetSpent):
        agent.search(task)
    return [evaluation.request for evaluation in task.history]


LONG = [pytest.mark.slow, pytest.mark.long]


def every_agent_with(*values: object, quick: int = 1) -> list[Any]:
    """Return every agent with every value; of those that take long the first ones are quick."""
    takes_long = ("td3", "sac", "tqc", "crossq", "gp")
    return [
        pytest.param(name, value, marks=LONG if name in takes_long and i >= quick else [])
        for name in AGENTS
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("name", "key"), every_agent_with("predicted_latency", "macs", "weight_bytes")
)
def test_ends_at_a_plan_within_the_budget_after_rounding(name: str, key: str) -> None:
    task = toy_task(sites=5, key=key, fraction=0.45, evaluations=22, step=2)
    run(name, task)
    best = task.best()
    assert best is not None
    widths = [len(choice.kept) for choice in best.request.plan.choices.values()]
    assert task.fits(widths)
    for site, width in zip(task.sites, widths, strict=True):
        assert width in site.widths


@pytest.mark.parametrize("name", AGENTS)
def test_meets_a_budget_that_the_smallest_widths_miss(name: str) -> None:
    task = toy_task(sites=6, key="predicted_latency", fraction=TIGHT, slow_narrow=True)
    assert not task.fits(task.smallest_widths)
    run(name, task)
    assert task.best() is not None


@pytest.mark.parametrize("name", AGENTS)
def test_same_seed_same_requests_whatever_an_evaluation_draws(name: str) -> None:
    quiet = run(name, toy_task(sites=4, evaluations=24, seed=3))
    assert run(name, toy_task(sites=4, evaluations=24, seed=3), disturb=True) == quiet


# Asks every agent for plans of the toy problem; prints their digests.
ASK = """
import json
from agents import AGENTS
from functools import partial
from tests.contracts.test_agents import run, toy_task

task = partial(toy_task, sites=4, seed=3, evaluations=16)

plans = {name: [r.plan.digest for r in run(name, task())] for name in AGENTS}
print(json.dumps(plans))
"""


@pytest.mark.slow
@pytest.mark.long
def test_requests_do_not_depend_on_how_a_process_hashes_text() -> None:
    asked = []
    for seed in "17":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", ASK]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        asked.append(json.loads(done.stdout))
    assert asked[0] == asked[1]
    assert asked[0].keys() == AGENTS.keys()
    assert all(asked[0].values())


@pytest.mark.parametrize("name", DRAWING)
def test_another_seed_makes_other_requests(name: str) -> None:
    first = run(name, toy_task(sites=4, evaluations=12, seed=3))
    assert run(name, toy_task(sites=4, evaluations=12, seed=4)) != first


@pytest.mark.parametrize("name", SEARCHERS)
def test_stops_at_the_last_evaluation(name: str) -> None:
    task = toy_task(sites=4, evaluations=14, walks=4)
    run(name, task)
    assert len(task.history) <= 14
    assert isinstance(task.evaluator, ToyEvaluator)
    assert sum(len(batch) for batch in task.evaluator.batches) == len(task.history)


@pytest.mark.parametrize("name", AGENTS)
def test_more_evaluations_at_the_same_horizon_leave_the_first_as_they_were(name: str) -> None:
    short = run(name, toy_task(sites=4, evaluations=22, horizon=22))
    long = run(name, toy_task(sites=4, evaluations=40, horizon=22))
    assert long[: len(short)] == short


@pytest.mark.parametrize(("name", "key"), every_agent_with("macs", "predicted_latency", quick=0))
def test_comes_near_the_known_optimum(name: str, key: str) -> None:
    task = toy_task(sites=6, key=key, evaluations=80, seed=1, curves=name == "analytic")
    run(name, task)
    optimum = toy_optimum(6, key, 0.5)
    (uniform,) = toy_task(sites=6, key=key, fraction=0.5).evaluate(
        [task.plan(uniform_widths(task))]
    )
    best = task.best()
    assert best is not None
    assert best.score <= optimum + 1e-12
    assert optimum - best.score <= GAP.get(name, 1.0) * (optimum - uniform.score) + 1e-12


@pytest.mark.parametrize("name", AGENTS)
def test_options_are_keywords_with_defaults_and_annotations(name: str) -> None:
    parameters = inspect.signature(type(make(name))).parameters.values()
    for option in parameters:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY, option
        assert option.default is not inspect.Parameter.empty, option
        assert option.annotation is not inspect.Parameter.empty, option


@pytest.mark.parametrize("name", AGENTS)
def test_a_wrong_option_value_names_field_value_and_remedy(name: str) -> None:
    for option in inspect.signature(type(make(name))).parameters:
        with pytest.raises(InputError, match=rf"agents\.{name}\.{option} must be .*got -7; .*"):
            make(name, **{option: -7})


class FailingWorkers:
    """Workers on a toy: every seventh score is broken, each time in the next of four ways."""

    broken: Final = (
        lambda: float("nan"),
        lambda: float("inf"),
        lambda: np.zeros(3) @ np.zeros(4),
        lambda: np.zeros(3),
    )
    recovery: Final = types.SimpleNamespace(prepare=lambda: None)

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites, self.calls = sites, 0

    def run(self, batch: Sequence[Work], finished: Finished | None = None) -> list[Any]:
        results = []
        for work in batch:
            worker = types.SimpleNamespace(recovery=self.recovery, run=self._outcome)
            results.append(attempt(cast(Worker, worker), work))
        return results

    def _outcome(self, work: Work) -> Outcome:
        self.calls += 1
        turn, rest = divmod(self.calls, 7)
        widths = [len(choice.kept) for choice in work.plan.choices.values()]
        score = float(toy_scores(self.sites, np.asarray([widths]))[0])
        score = as_score(score if rest else self.broken[turn % 4]())
        state = {"kept": np.asarray(widths)} if work.finetune else None
        return Outcome(score, state, 0.0, 0.0, 0.0, 0.0, 0.0)

    def finalise(self, batch: Sequence[FinalWork]) -> list[Any]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(("name", "penalty"), every_agent_with(None, -3.0))
def test_broken_scores_are_infeasible_and_the_search_ends_with_a_plan(
    name: str, penalty: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy_task(sites=5, evaluations=36, horizon=36)
    agent = make(name, **SMALLER.get(name, {}))
    learners: list[Any] = []
    make_model = getattr(agent, "model", None)

    def remembered(task: SearchTask, env: PruningVecEnv) -> Any:
        assert make_model is not None
        learners.append(make_model(task, env))
        return learners[-1]

    monkeypatch.setattr(agent, "model", remembered, raising=False)
    assert isinstance(task.evaluator, ToyEvaluator)
    kept = task.evaluator.kept
    pricing = Pricing(
        task.sites, task.cost_model, ResourceConstrained(), task.budget, "toy", penalty
    )
    workers = FailingWorkers(task.sites)
    scoring = ScoringEvaluator(workers, pricing)
    scoring.weights = Weights(tmp_path / "weights", scoring.rerun)
    Journal.create(tmp_path / "journal.jsonl", {})
    journal = Journal(tmp_path / "journal.jsonl", {})
    guarded = FailureGuard(CachedEvaluator(scoring, "toy"), journal.records)
    task.evaluator = JournaledEvaluator(guarded, journal)
    task.on_batch = lambda batch: kept.update({e.key: e.request.plan for e in batch})
    seed_everything(task.seed)
    with contextlib.suppress(BudgetSpent):
        agent.search(task)

    def refused(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    for line in (tmp_path / "journal.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refused)
    best = task.best()
    assert best is not None
    assert best.feasible
    assert all(math.isfinite(e.reward) and math.isfinite(e.score) for e in task.history)
    failed = [e for e in task.history if not e.feasible and not e.cached]
    assert len(failed) == workers.calls // 7
    assert len({e.reason for e in failed}) == min(4, len(failed))
    assert all(e.reason and e.reward == (penalty or 0.0) for e in failed)
    assert all(e.feasible for e in task.family)
    parents = {e.request.parent for e in task.history} - {None}
    assert parents.isdisjoint(e.key for e in failed)
    for learner in learners:
        buffer = learner.replay_buffer
        assert np.isfinite(buffer.rewards).all()
        state = learner.policy.state_dict()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    assert len(learners) == (name in LEARNERS)
