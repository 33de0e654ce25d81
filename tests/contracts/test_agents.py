"""What every agent in the registry owes, on a toy problem with a known optimum."""

from __future__ import annotations

import contextlib
import inspect
from functools import partial
from typing import Any

import pytest

from agents import AGENTS
from agents.base import Agent
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent, InputError
from amc.evaluation import Request
from amc.registry import lookup
from amc.search_task import SearchTask, seed_everything
from tests.toy import TIGHT, ToyEvaluator, toy_optimum
from tests.toy import toy_task as toy_task_with_or_without

# How far from the known optimum an agent may end, as a fraction of the uniform plan's distance;
# a newcomer without an entry must not be worse than uniform.
GAP = {
    "ddpg": 0.3,
    "netadapt": 0.1,
    "uniform": 1.0,
    "random_search": 0.7,
    "analytic": 0.2,
    "evolution": 0.2,
}
SEARCHERS = [name for name in AGENTS if name != "uniform"]


toy_task = partial(toy_task_with_or_without, curves=True)


def make(name: str, **options: Any) -> Agent:
    agent: Agent = lookup(AGENTS, name, "agent")(**options)
    return agent


def run(name: str, task: SearchTask, *, disturb: bool = False) -> list[Request]:
    """Search as the application does; return the requests in order."""
    assert isinstance(task.evaluator, ToyEvaluator)
    task.evaluator.disturb = disturb
    agent = make(name)
    agent.check(task)
    seed_everything(task.seed)
    with contextlib.suppress(BudgetSpent):
        agent.search(task)
    return [evaluation.request for evaluation in task.history]


@pytest.mark.parametrize("key", ["macs", "predicted_latency", "weight_bytes"])
@pytest.mark.parametrize("name", AGENTS)
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


@pytest.mark.parametrize("name", ["ddpg", "random_search", "evolution"])
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


@pytest.mark.parametrize("key", ["macs", "predicted_latency"])
@pytest.mark.parametrize("name", AGENTS)
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
