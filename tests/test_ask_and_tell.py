"""Optimisers that are asked and told: where they start, what they are told, and on which sites."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import CmaEsSampler, GPSampler
from optuna.trial import TrialState, create_trial

from agents import AGENTS
from agents.analytic import analytic_widths
from agents.ask_and_tell import _replaced, _tell, executed, keep_ratios, parameters
from agents.cma_es import CMAESAgent, whole_batches
from agents.gp import ThriftySampler
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent
from amc.registry import lookup
from amc.search_task import SearchTask
from tests.toy import make_sites, toy_scores, toy_task

NAMES = ("tpe", "cma_es", "gp")


def asked(task: SearchTask, name: str, **options: Any) -> list[tuple[int, ...]]:
    with contextlib.suppress(BudgetSpent):
        lookup(AGENTS, name, "agent")(**options).search(task)
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_improves_on_the_plans_that_it_starts_from(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = toy_task(sites=8, evaluations=40, curves=True)
    plans = asked(task, name)
    assert plans[:2] == [uniform_widths(task), analytic_widths(task)]
    assert len(plans) == len(set(plans)) == 40
    assert all(task.fits(plan) for plan in plans)
    scores = toy_scores(task.sites, np.array(plans))
    assert scores.max() > scores[:2].max()
    assert capsys.readouterr() == ("", ""), "Optuna is quiet"


@pytest.mark.parametrize("name", NAMES)
def test_it_may_start_from_less(name: str) -> None:
    uniform = uniform_widths(toy_task())
    assert asked(toy_task(evaluations=1, curves=True), name, start="uniform") == [uniform]
    assert asked(toy_task(evaluations=2), name)[0] == uniform
    without = asked(toy_task(evaluations=12), name, start="none")
    assert without[0] != uniform
    assert len(without) == 12


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_ends_where_every_plan_was_asked_for(name: str) -> None:
    task = toy_task(sites=1, evaluations=60, step=8, curves=True)
    plans = asked(task, name, redraws=5)
    assert len(plans) == len(set(plans)) < 60


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_reads_and_moves_no_global_generator(name: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = asked(toy_task(sites=4, evaluations=16), name, **START_UP.get(name, {}))
    torch.manual_seed(2)
    np.random.seed(2)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    assert asked(toy_task(sites=4, evaluations=16), name, **START_UP.get(name, {})) == first
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]


START_UP: dict[str, dict[str, Any]] = {"tpe": {"startup": 2}, "gp": {"startup": 2}}


def test_every_kind_of_site_has_a_parameter_unless_there_is_nothing_to_decide() -> None:
    task = toy_task(sites=4)
    channels, weights, block, fixed = make_sites(4)
    task.sites = (
        replace(channels, widths=(4, 8, 16)),
        replace(weights, widths=(50, 500, 1000), decides="weights"),
        replace(block, widths=(0, 1), decides="block"),
        replace(fixed, widths=(32,)),
    )
    space = parameters(task)
    ranges = {"conv0": (0.25, 1.0), "conv1": (0.05, 1.0), "conv2": (0.0, 1.0)}
    assert space == {name: FloatDistribution(*ends) for name, ends in ranges.items()}
    assert executed(task, space, (8, 50, 0, 32)) == {"conv0": 0.5, "conv1": 0.05, "conv2": 0.0}
    assert keep_ratios(task, space, np.array([0.3, 0.2, 0.6])).tolist() == [0.3, 0.2, 0.6, 1.0]


def test_a_plan_without_a_score_is_told_the_worst_so_far() -> None:
    task = toy_task(evaluations=1)
    (scored,) = task.evaluate([task.plan(uniform_widths(task))])
    study = optuna.create_study(direction="maximize")
    for evaluation, expected in (
        (replace(scored, reward=9.0, feasible=False), None),
        (replace(scored, reward=0.4), 0.4),
        (replace(scored, reward=-0.2), -0.2),
        (replace(scored, reward=0.0, feasible=False), -0.2),
    ):
        number = study.ask({"x": FloatDistribution(0.0, 1.0)}).number
        _tell(study, number, evaluation)
        assert study.trials[number].values == (None if expected is None else [expected])
        assert study.trials[number].state.is_finished()


def test_a_replaced_trial_keeps_what_the_optimiser_noted_beside_it() -> None:
    space: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in "xy"}
    study = optuna.create_study(direction="maximize", sampler=CmaEsSampler(seed=0))
    study.add_trial(create_trial(value=1.0, params={"x": 0.5, "y": 0.5}, distributions=space))
    trial = study.ask(space)
    number = _replaced(study, trial.number, {"x": 0.25, "y": 1.0})
    first, new = study.trials[trial.number], study.trials[number]
    assert new.params == {"x": 0.25, "y": 1.0}
    assert (first.state, new.state) == (TrialState.FAIL, TrialState.RUNNING)
    assert new.system_attrs == first.system_attrs != {}
    _tell(study, number, toy_task(evaluations=1).evaluate([toy_task().plan((4,) * 6)])[0])
    assert study.trials[number].state == TrialState.COMPLETE


@pytest.mark.parametrize(("sites", "walks", "expected"), [(1, 4, 4), (6, 4, 12), (20, 5, 15)])
def test_a_generation_is_whole_batches(sites: int, walks: int, expected: int) -> None:
    assert whole_batches(sites, walks) == expected


def test_cma_es_draws_around_the_better_of_the_first_plans() -> None:
    task = toy_task(sites=6, evaluations=10, curves=True, step=1)
    plans = np.array(asked(task, "cma_es", sigma=0.01))
    far = (np.abs(plans - plans[1]) / task.dense_widths).mean(axis=1)
    assert far[0] > 0.2, "the uniform plan, which is the poorer one"
    assert far[2:].max() < 0.1
    assert CMAESAgent(population=7).population == 7


def test_the_gaussian_process_has_the_settings_that_are_changed() -> None:
    changed = vars(ThriftySampler(0, 10, 256, 2))
    theirs = vars(GPSampler(seed=0))
    assert changed.keys() == theirs.keys(), "Optuna renamed what it has no options for"
    assert changed["_n_preliminary_samples"] < theirs["_n_preliminary_samples"]
    assert changed["_n_local_search"] < theirs["_n_local_search"]
