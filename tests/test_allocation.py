"""Slopes, one threshold for all, and greedy exchanges: what is particular to each of them."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest

from agents.analytic import analytic_losses
from agents.base import Agent
from agents.exchanges import exchanges
from agents.greedy import GreedyAgent
from agents.greedy_walk import greedy_widths, positions_of, total_loss
from agents.sensitivity import SensitivityAgent, threshold_widths
from agents.sloped import DeepAgent, ShallowAgent
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent
from amc.search_task import SearchTask
from tests.toy import TIGHT, toy_task

Widths = tuple[int, ...]


def asked(task: SearchTask, agent: Agent) -> list[Widths]:
    with contextlib.suppress(BudgetSpent):
        agent.search(task)
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


def narrowed_alone(task: SearchTask, plan: Widths) -> bool:
    return sum(w < full for w, full in zip(plan, task.dense_widths, strict=True)) <= 1


@pytest.mark.parametrize("key", ["macs", "predicted_latency"])
def test_slopes_prune_one_end_more_and_fill_the_budget(key: str) -> None:
    task = toy_task(sites=9, key=key, step=1)
    (shallow,) = asked(task, ShallowAgent(steepness=0.6))
    (_, deep) = asked(task, DeepAgent(steepness=0.6))
    for plan, sign in ((shallow, 1), (deep, -1)):
        assert task.fits(plan)
        assert task.budget_costs(np.array([plan]))[0] > 0.93 * task.budget.limit
        keep = np.divide(plan, task.dense_widths)
        assert (np.diff(keep) * sign > -0.05).all()
        assert sign * (keep[-1] - keep[0]) > 0.3
    flat = asked(toy_task(sites=9, key=key, step=1), ShallowAgent(steepness=0.0))
    assert flat == [uniform_widths(task)]


@pytest.mark.parametrize("fraction", [0.4, 0.6, 0.9])
def test_the_threshold_is_the_least_that_fits(fraction: float) -> None:
    task = toy_task(sites=7, key="macs", fraction=fraction, curves=True)
    losses = analytic_losses(task)
    plan = threshold_widths(task, losses)
    assert task.fits(plan)
    at = positions_of(task, plan)
    reached = max(float(its[p]) for its, p in zip(losses, at, strict=True))
    lower = [int(np.argmax(its < reached * (1 - 1e-12))) for its in losses]
    assert not task.fits([s.widths[p] for s, p in zip(task.sites, lower, strict=True)])


def test_a_budget_below_the_smallest_widths_has_a_threshold() -> None:
    task = toy_task(sites=6, key="predicted_latency", fraction=TIGHT, slow_narrow=True, curves=True)
    assert task.fits(threshold_widths(task, analytic_losses(task)))


def test_sensitivity_measures_where_its_plan_stands_and_then_ends() -> None:
    task = toy_task(sites=5, step=2, evaluations=120)
    plans = asked(task, SensitivityAgent(measuring=0.2))
    assert len(plans) == len(set(plans)) < 120
    alone = [plan for plan in plans if narrowed_alone(task, plan)]
    last = [plan for plan in plans if not narrowed_alone(task, plan)][-1]
    assert task.fits(last)
    for t, site in enumerate(task.sites):
        measured = {plan[t] for plan in alone}
        position = site.widths.index(last[t])
        assert {site.widths[p] for p in (max(0, position - 1), position)} <= measured
    others = [plan for plan in plans if not narrowed_alone(task, plan)]
    assert all(task.fits(plan) for plan in others)


def test_exchanges_are_all_within_the_budget_and_the_least_loss_comes_first() -> None:
    task = toy_task(sites=5, curves=True)
    losses, start = analytic_losses(task), greedy_widths(task, analytic_losses(task))
    plans = list(exchanges(task, losses, start))
    assert len(plans) == len(set(plans)) > 20
    assert all(task.fits(plan) for plan in plans)
    loss = [float(total_loss(losses, positions_of(task, plan)[None])[0]) for plan in plans]
    assert loss == sorted(loss)
    changes = np.sign(np.subtract(plans, start))
    assert set(changes.sum(axis=1).tolist()) <= {-1, 0}, "no room for one wider alone"
    assert (np.abs(changes).sum(axis=1) <= 2).all()
    assert (np.abs(changes).sum(axis=1) >= 1).all()


def test_greedy_climbs_from_its_plan_by_exchanges() -> None:
    task = toy_task(sites=6, key="macs", evaluations=80)
    plans = asked(task, GreedyAgent())
    first = next(n for n, plan in enumerate(plans) if not narrowed_alone(task, plan))
    climbed = task.history[first:]
    assert len(plans) == len(set(plans)) == 80
    assert all(task.fits(plan) for plan in plans[first:])
    rewards = list(itertools.accumulate((e.reward for e in climbed), max))
    assert rewards[-1] >= rewards[0]
    for n in range(1, len(climbed)):
        before = plans[first : first + n]
        assert any(np.not_equal(plans[first + n], plan).sum() <= 2 for plan in before)


def test_greedy_ends_where_no_neighbour_is_new() -> None:
    task = toy_task(sites=1, evaluations=60, step=8)
    assert len(asked(task, GreedyAgent())) < 60
