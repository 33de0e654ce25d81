"""Objectives: the published rewards, their configuration, and what depends on it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.ddpg import DDPGAgent
from amc import app, finish
from amc.config import parse_config
from amc.config_identity import NOT_OF_THE_RESULT
from amc.cost import BUDGET_KEYS, Budget, Cost
from amc.errors import BudgetSpent, InputError
from amc.evaluation import Request
from amc.evaluators import Pricing, ScoringEvaluator
from amc.failures import Failure
from amc.journal import read_journal
from amc.objective import AccuracyGuaranteed, AccuracyWithinBudget, Objective, ResourceConstrained
from amc.plan import digest
from amc.search_task import seed_everything
from amc.worker import Final, Work
from amc.workers import FinalWork
from tests.conftest import SMALL
from tests.toy import toy_task

COST = Cost(latency_s=2e-3, macs=5_000_000, params=40_000, weight_bytes=160_000)
GOOD: dict[str, Any] = {"task": "digits", "budget": {"macs": 0.5}, "agents": {"ddpg": {}}}


def test_resource_constrained_is_the_score() -> None:
    reward = ResourceConstrained()
    assert reward(0.7, COST, Budget("macs", 0.5, 1.0)) == 0.7
    assert reward.needs_wall(Budget("macs", 1.0, 1.0))


@pytest.mark.parametrize(
    ("key", "amount"),
    [
        ("macs", 5_000_000),
        ("params", 40_000),
        ("weight_bytes", 160_000),
        ("predicted_latency", 2_000_000),  # nanoseconds
    ],
)
def test_accuracy_guaranteed_is_minus_error_times_the_logarithm(key: str, amount: int) -> None:
    expected = -0.3 * math.log(amount)
    assert AccuracyGuaranteed()(0.7, COST, Budget(key, 1.0, 1.0)) == pytest.approx(expected)
    by_name = AccuracyGuaranteed(key)(0.7, COST, Budget("macs", 1.0, 1.0))
    assert by_name == pytest.approx(expected)


def test_accuracy_guaranteed_pays_for_accuracy_first_and_for_size_next() -> None:
    reward, budget = AccuracyGuaranteed(), Budget("macs", 1.0, 1e9)
    smaller = Cost(1e-3, 2_500_000, 20_000, 80_000)
    assert reward(0.9, smaller, budget) > reward(0.9, COST, budget)
    assert reward(0.9, COST, budget) > reward(0.8, smaller, budget)
    assert not reward.needs_wall(budget)
    assert reward.needs_wall(Budget("macs", 0.5, 1.0)), "a bound beside the trade"
    with pytest.raises(InputError, match="needs scores of at most 1, but got 1.5; scale"):
        reward(1.5, COST, budget)


def test_accuracy_within_budget_is_the_score_or_the_penalty() -> None:
    reward = AccuracyWithinBudget(-2.0)
    assert reward(0.7, COST, Budget("macs", 0.5, 5_000_000)) == 0.7
    assert reward(0.7, COST, Budget("macs", 0.5, 4_999_999)) == -2.0
    assert not reward.needs_wall(Budget("macs", 0.5, 1.0))


@pytest.mark.parametrize(
    ("section", "built"),
    [
        ({}, ResourceConstrained()),
        ({"kind": "resource_constrained"}, ResourceConstrained()),
        ({"kind": "accuracy_guaranteed"}, AccuracyGuaranteed()),
        (
            {"kind": "accuracy_guaranteed", "resource": "predicted_latency"},
            AccuracyGuaranteed("predicted_latency"),
        ),
        ({"kind": "accuracy_within_budget"}, AccuracyWithinBudget(-1.0)),
        ({"kind": "accuracy_within_budget", "penalty": -0.5}, AccuracyWithinBudget(-0.5)),
    ],
)
def test_configured_by_kind(section: dict[str, Any], built: Objective) -> None:
    config = parse_config({**GOOD, "objective": section})
    assert config.objective.build() == built
    assert parse_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "accuracy"}, "objective.kind 'accuracy'"),
        ({"penalty": -1}, "objective.penalty belongs to kind 'accuracy_within_budget'"),
        ({"resource": "macs"}, "objective.resource belongs to kind 'accuracy_guaranteed'"),
        ({"kind": "accuracy_within_budget", "penalty": 0.5}, "objective.penalty 0.5"),
        ({"kind": "accuracy_guaranteed", "resource": "time"}, "objective.resource 'time'"),
        ({"sort": "x"}, "objective.sort is not a known key"),
    ],
)
def test_bad_sections_name_field_and_value(section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config({**GOOD, "objective": section})
    assert message in str(caught.value)


def test_the_default_leaves_digests_as_they_were_and_another_objective_does_not() -> None:
    config = parse_config(GOOD)
    before = config.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
    # As it was before these keys.
    for key in (
        "cache",
        "evaluation_steps",
        "infeasible_reward",
        "objective",
        "score",
        "racing",
        "short_term",
    ):
        del before[key]
    for key in ("weight_criterion", "patterns", "sparsities"):
        del before["sites"][key]
    assert config.digest == digest(before)
    assert parse_config({**GOOD, "objective": {}}).digest == config.digest
    other = parse_config({**GOOD, "objective": {"kind": "accuracy_within_budget"}})
    assert other.digest != config.digest


@pytest.mark.parametrize("key", BUDGET_KEYS)
def test_a_search_by_penalty_leaves_the_budget_and_ends_within_it(key: str) -> None:
    task = toy_task(key=key, fraction=0.5, evaluations=24, objective=AccuracyWithinBudget(-1.0))
    seed_everything(0)
    with contextlib.suppress(BudgetSpent):
        DDPGAgent().search(task)
    beyond = [e for e in task.history if not task.budget.met_by(e.cost)]
    assert beyond, "no wall keeps walks within the budget"
    assert {e.reward for e in beyond} == {-1.0}
    best = task.best()
    assert best is not None
    assert task.budget.met_by(best.cost)


def test_a_search_that_guarantees_accuracy_is_free_in_its_widths() -> None:
    task = toy_task(fraction=1.0, evaluations=40, objective=AccuracyGuaranteed())
    seed_everything(0)
    with contextlib.suppress(BudgetSpent):
        DDPGAgent().search(task)
    best = task.best()
    assert best is not None
    assert best.reward == max(e.reward for e in task.history)
    assert len({e.cost.macs for e in task.history}) > 20


class _NotFinite:
    """Workers on whose networks every output overflows."""

    def run(self, batch: Sequence[Work], finished: Any = None) -> list[Failure]:
        return [Failure("not_finite", "the network's output is not finite") for _ in batch]

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        raise NotImplementedError

    def close(self) -> None:
        return


@pytest.mark.parametrize(
    "objective", [ResourceConstrained(), AccuracyGuaranteed(), AccuracyWithinBudget()], ids=str
)
def test_a_network_that_is_not_finite_is_rewarded_as_one_that_is_always_wrong(
    objective: Objective,
) -> None:
    task = toy_task()
    pricing = Pricing(task.sites, task.cost_model, objective, task.budget, "toy")
    plan = task.plan(task.smallest_widths)
    (evaluation,) = ScoringEvaluator(_NotFinite(), pricing).evaluate([Request(plan)])
    assert not evaluation.feasible
    assert evaluation.reward == objective(0.0, evaluation.cost, task.budget)
    assert evaluation.reward <= objective(0.01, evaluation.cost, task.budget)
    named = replace(pricing, infeasible_reward=-0.25)
    (evaluation,) = ScoringEvaluator(_NotFinite(), named).evaluate([Request(plan)])
    assert evaluation.reward == -0.25


@pytest.mark.slow
def test_a_run_keeps_its_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    agents = {"ddpg": {"protocol": "published", "warmup_episodes": 2}}
    values = {**SMALL, "agents": agents, "objective": {"kind": "accuracy_within_budget"}}
    result = app.search(parse_config(values), tmp_path / "run")
    header, records = read_journal(tmp_path / "run" / "ddpg-s0" / "journal.jsonl")
    assert header["objective"]["kind"] == "accuracy_within_budget"
    limit = 0.5 * result["rows"][0]["dense"]["macs"]
    beyond = [e for e in records if e.cost.macs > limit]
    assert beyond, "no wall keeps walks within the budget"
    assert {e.reward for e in beyond} == {-1.0}
    assert result["rows"][0]["macs"] <= limit
    app.resume(tmp_path / "run", evaluations=10)
    assert read_journal(tmp_path / "run" / "ddpg-s0" / "journal.jsonl")[1][:8] == records
    with pytest.raises(InputError, match="holds a run of another configuration"):
        app.search(parse_config({**values, "objective": {}}), tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("accuracy_within_budget", "resource_constrained"))
    with pytest.raises(InputError, match="objective.kind is 'accuracy_within_budget' on record"):
        app.resume(tmp_path / "run")


def test_the_registered_environment_takes_objective_and_convention() -> None:
    env = app.make_env(
        "digits",
        convention={"state": "released", "action": "input"},
        objective={"kind": "accuracy_within_budget"},
        latency={"batch_size": 64},
    )
    first, _ = env.reset()
    assert first.shape == (10,)
    assert env.task.wall is False
