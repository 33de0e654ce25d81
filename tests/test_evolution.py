"""Evolution starts from what is known, asks for nothing twice, and improves on its start."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from agents.analytic import analytic_widths
from agents.evolution import EvolutionAgent
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent
from amc.search_task import SearchTask
from tests.toy import toy_scores, toy_task


def asked(task: SearchTask, agent: EvolutionAgent | None = None) -> list[tuple[int, ...]]:
    with contextlib.suppress(BudgetSpent):
        (agent or EvolutionAgent()).search(task)
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


@pytest.mark.parametrize("key", ["macs", "predicted_latency"])
def test_it_improves_on_the_plans_that_it_starts_from(key: str) -> None:
    task = toy_task(sites=8, key=key, evaluations=80, curves=True)
    plans = asked(task)
    assert plans[:2] == [uniform_widths(task), analytic_widths(task)]
    assert len(plans) == len(set(plans)) == 80
    assert all(task.fits(plan) for plan in plans)
    scores = toy_scores(task.sites, np.array(plans))
    assert scores.max() > scores[:2].max()


def test_without_error_curves_it_starts_from_the_uniform_plan() -> None:
    task = toy_task(evaluations=5, walks=4)
    assert asked(task)[0] == uniform_widths(task)
    assert len(task.history) == 5


def test_from_scratch_it_does_without_the_error_curves() -> None:
    task = toy_task(evaluations=5, walks=4, curves=True)
    plans = asked(task, EvolutionAgent(start="uniform"))
    assert plans[0] == uniform_widths(task)
    assert analytic_widths(task) not in plans
    assert len(task.history) == 5


def test_a_child_differs_at_few_sites_before_it_is_scaled() -> None:
    generator, shape = np.random.default_rng(0), np.full(12, 0.5)
    agent = EvolutionAgent(sites=3, spread=0.1)
    blocks = np.zeros(12, dtype=bool)
    counts = {int((agent._changed(shape, blocks, generator) != shape).sum()) for _ in range(200)}
    assert counts == {1, 2, 3}
    assert (shape == 0.5).all()


def test_a_block_goes_or_comes_back() -> None:
    generator, agent = np.random.default_rng(0), EvolutionAgent(sites=1)
    there, blocks = np.array([1.0]), np.array([True])
    gone = agent._changed(there, blocks, generator)
    assert gone[0] < 0.5
    assert agent._changed(gone, blocks, generator)[0] == 1


def test_it_ends_where_every_plan_was_asked_for() -> None:
    task = toy_task(sites=1, evaluations=60, step=8, curves=True)
    plans = asked(task, EvolutionAgent(redraws=5))
    assert len(plans) == len(set(plans)) < 60
