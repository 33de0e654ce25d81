"""The knapsack is exact where costs add up, and the plan truly fits where they do not."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.allocator import Allocator
from agents.analytic import analytic_losses
from agents.greedy_walk import greedy_widths, positions_of, total_loss, widths_at
from agents.knapsack import Coefficients, KnapsackAgent
from agents.multiple_choice import Knapsack
from amc.cost import make_budget
from amc.errors import BudgetSpent, InputError
from amc.search_task import SearchTask
from tests.toy import toy_scores, toy_task

Arrays = list[NDArray[np.float64]]


def problem(seed: int, whole: bool) -> tuple[Arrays, Arrays]:
    """Return the costs and losses of four sites with three to six choices each."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(3, 7, size=4)
    costs = [generator.uniform(-3, 9, size=n) for n in counts]
    if whole:
        costs = [np.round(its) for its in costs]
    return costs, [generator.uniform(size=n) for n in counts]


def brute_force(costs: Arrays, losses: Arrays, limit: float) -> float:
    plans = np.array(list(itertools.product(*(range(len(its)) for its in costs))))
    return float(total_loss(losses, plans)[total_loss(costs, plans) <= limit + 1e-9].min())


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_best_of_all_choices_under_every_bound(seed: int) -> None:
    costs, losses = problem(seed, whole=True)
    least = sum(float(its.min()) for its in costs)
    plans = Knapsack(costs, room=30.0, bins=30).solve(losses)
    assert plans.shape == (31, 4)
    for room, plan in enumerate(plans):
        assert total_loss(costs, plan[None])[0] <= least + room
        expected = brute_force(costs, losses, least + room)
        assert total_loss(losses, plan[None])[0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_rounding_never_exceeds_a_bound_and_loses_at_most_a_part_a_site(seed: int) -> None:
    costs, losses = problem(seed, whole=False)
    least, bins, room = sum(float(its.min()) for its in costs), 40, 20.0
    for parts, plan in enumerate(Knapsack(costs, room, bins).solve(losses)):
        bound = least + room * parts / bins
        assert total_loss(costs, plan[None])[0] <= bound + 1e-9
        own = total_loss(losses, plan[None])[0]
        assert own >= brute_force(costs, losses, bound) - 1e-12
        if parts >= len(costs):
            assert own <= brute_force(costs, losses, bound - len(costs) * room / bins) + 1e-12


def additive_optimum(task: SearchTask, losses: Arrays) -> float:
    plans = np.array(list(itertools.product(*(range(len(s.widths)) for s in task.sites))))
    fits = task.budget.within(task.budget_costs(widths_at(task, plans)))
    return float(total_loss(losses, plans[fits]).min())


class Separate:
    """Costs that add up: a site's own widths, some sites dearer than others."""

    def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        cost = (widths * (1 + np.arange(widths.shape[1]) % 3)).sum(axis=1).astype(float)
        return dict.fromkeys(("latency_s", "macs", "params", "weight_bytes"), cost)


@pytest.mark.parametrize("fraction", [0.4, 0.55, 0.8])
def test_with_additive_costs_the_plan_is_optimal(fraction: float) -> None:
    task = toy_task(sites=5, key="macs", curves=True)
    costs = Separate()
    task = replace(task, cost_model=costs, budget=make_budget("macs", fraction, costs, task.sites))
    losses = list(analytic_losses(task))
    plan = Allocator(task, losses).first
    assert task.fits(plan)
    own = total_loss(losses, positions_of(task, plan)[None])[0]
    assert own == pytest.approx(additive_optimum(task, losses))


@pytest.mark.parametrize("key", ["macs", "predicted_latency", "weight_bytes"])
@pytest.mark.parametrize("fraction", [0.45, 0.7])
def test_with_coupled_costs_it_fits_and_is_never_worse_than_greedy(
    key: str, fraction: float
) -> None:
    task = toy_task(sites=5, key=key, fraction=fraction, curves=True)
    losses = list(analytic_losses(task))
    plan, greedy = Allocator(task, losses).first, greedy_widths(task, losses)
    assert task.fits(plan)
    own, its = (total_loss(losses, positions_of(task, w)[None])[0] for w in (plan, greedy))
    assert own <= its
    assert own <= 1.05 * additive_optimum(task, losses)


def asked(task: SearchTask, agent: KnapsackAgent) -> list[tuple[int, ...]]:
    agent.check(task)
    with contextlib.suppress(BudgetSpent):
        agent.search(task)
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


def test_analytic_losses_take_no_evaluations_and_coefficients_improve_on_them() -> None:
    alone = toy_task(sites=6, evaluations=40, curves=True)
    (first,) = asked(alone, KnapsackAgent(importance="analytic", coefficients=False))
    task = toy_task(sites=6, evaluations=40, curves=True)
    plans = asked(task, KnapsackAgent(importance="analytic"))
    assert plans[0] == first
    assert len(plans) == len(set(plans)) == 40
    assert all(task.fits(plan) for plan in plans)
    scores = toy_scores(task.sites, np.array(plans))
    assert scores.max() > scores[0]


def test_analytic_losses_need_a_network() -> None:
    with pytest.raises(InputError, match=r"importance 'analytic' needs .*; choose 'measured'"):
        KnapsackAgent(importance="analytic").check(toy_task())


def test_coefficients_are_random_first_and_then_fewer_and_fewer_are_drawn_anew() -> None:
    search = Coefficients(10, seed=0, random=2, resampled=3, patience=2)
    search.learn(search.best, 1.0)
    assert (search.draw(0) != search.best).all()
    best = search.draw(0)
    search.learn(best, 2.0)
    changed = []
    for _ in range(5):
        vector = search.draw(0)
        changed.append(int((vector != best).sum()))
        search.learn(vector, 0.0)
    assert changed == [3, 3, 2, 2, 1]
    assert int((search.draw(4) != best).sum()) == 5
    assert (search.best == best).all()


def test_the_search_ends_where_no_plan_is_new() -> None:
    task = toy_task(sites=1, evaluations=60, step=8, curves=True)
    plans = asked(task, KnapsackAgent(importance="analytic", redraws=3))
    assert len(plans) == len(set(plans)) < 60
