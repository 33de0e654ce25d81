"""The analytic plan: what loses nothing goes first, and every budget is met without evaluations."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.analytic import AnalyticAgent, analytic_widths, demonstration
from agents.ddpg import DDPGAgent
from agents.uniform import uniform_widths
from amc.cost import make_budget
from amc.errors import BudgetSpent, InputError
from amc.reconstruction.curves import ErrorCurve, ErrorCurves
from amc.search_task import SearchTask, seed_everything
from tests.toy import TIGHT, toy_curves, toy_scores, toy_task


def widths_asked(task: SearchTask) -> list[tuple[int, ...]]:
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


def test_the_site_that_loses_nothing_is_narrowed_first() -> None:
    task = toy_task(sites=4, key="macs", fraction=0.9)
    curves = dict(toy_curves(task.sites).sites)
    site = task.sites[2]
    free = np.zeros(site.channels + 1)
    curves[site.name] = ErrorCurve.of({"reader": free}, {"reader": 1.0})
    widths = analytic_widths(replace(task, curve_maker=lambda: ErrorCurves(curves)))
    assert widths[2] < site.channels
    assert widths[:2] + widths[3:] == task.dense_widths[:2] + task.dense_widths[3:]


def test_a_site_that_several_layers_read_loses_in_each_of_them() -> None:
    task = toy_task(sites=2, key="macs", fraction=0.7)
    for often in (0, 1):
        curves = {}
        for t, site in enumerate(task.sites):
            error = 0.2 * (1 - np.arange(site.channels + 1) / site.channels)
            readers = {f"reader{n}": error for n in range(9 if t == often else 1)}
            curves[site.name] = ErrorCurve.of(readers, dict.fromkeys(readers, 1.0))
        widths = analytic_widths(replace(task, curve_maker=partial(ErrorCurves, curves)))
        assert widths[often] == task.sites[often].channels
        assert widths[1 - often] < task.sites[1 - often].channels


def test_it_may_save_another_cost_than_the_budget_bounds() -> None:
    task = toy_task(sites=8, key="weight_bytes", fraction=0.5, curves=True)
    own, other = analytic_widths(task), analytic_widths(task, "macs")
    assert task.fits(own)
    assert task.fits(other)
    assert task.cost(other).macs < task.cost(own).macs


@pytest.mark.parametrize("key", ["macs", "predicted_latency", "weight_bytes"])
def test_it_fits_fills_the_budget_and_beats_uniform(key: str) -> None:
    for fraction in (0.3, 0.5, 0.8):
        task = toy_task(sites=8, key=key, fraction=fraction, curves=True)
        widths = analytic_widths(task)
        assert task.fits(widths)
        for t, site in enumerate(task.sites):
            wider = [w for w in site.widths if w > widths[t]]
            assert not any(task.fits([*widths[:t], w, *widths[t + 1 :]]) for w in wider[:8])
        own, uniform = toy_scores(task.sites, np.array([widths, uniform_widths(task)]))
        assert own > uniform


def test_a_budget_below_the_smallest_widths_is_met() -> None:
    task = toy_task(sites=6, key="predicted_latency", fraction=TIGHT, slow_narrow=True, curves=True)
    assert task.fits(analytic_widths(task))


class Stairs:
    """Costs that fall only every so many channels."""

    def __init__(self, step: int) -> None:
        self.step = step

    def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        cost = (-(-widths // self.step)).astype(float).sum(axis=1)
        return dict.fromkeys(("latency_s", "macs", "params", "weight_bytes"), cost)


def test_it_reaches_over_wide_stairs() -> None:
    task = toy_task(sites=8, key="macs", fraction=0.5, step=1, curves=True)
    costs = Stairs(16)
    budget = make_budget("macs", 0.6, costs, task.sites)
    task = replace(task, cost_model=costs, budget=budget)
    widths = analytic_widths(task)
    assert task.fits(widths)
    assert task.budget_costs(np.array([widths]))[0] > 0.9 * budget.limit
    own, uniform = toy_scores(task.sites, np.array([widths, uniform_widths(task)]))
    assert own > uniform


def test_where_no_step_saves_it_goes_on_from_the_cheapest_plan() -> None:
    class Together(Stairs):
        """One site alone saves nothing: only where all are at their narrowest is it cheap."""

        def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
            narrow = (widths <= [site.widths[0] for site in task.sites]).all(axis=1)
            cost = np.where(narrow, 1.0, 10.0)
            return dict.fromkeys(("latency_s", "macs", "params", "weight_bytes"), cost)

    task = toy_task(sites=3, curves=True)
    together = Together(1)
    budget = replace(task.budget, limit=5.0)
    task = replace(task, cost_model=together, budget=budget)
    assert analytic_widths(task) == task.smallest_widths


def test_sites_without_a_curve_count_by_their_channels() -> None:
    task = toy_task(sites=5, key="macs", fraction=0.5)
    shares = {}
    for site in task.sites:
        error = 1 - np.arange(site.channels + 1) / site.channels
        shares[site.name] = ErrorCurve.of({"reader": error}, {"reader": 1.0})
    without, named = (
        analytic_widths(replace(task, curve_maker=partial(ErrorCurves, curves)))
        for curves in ({}, shares)
    )
    assert without == named
    assert task.fits(without)
    assert without != analytic_widths(replace(task, curve_maker=partial(toy_curves, task.sites)))


def test_curves_that_cannot_be_had_are_named_and_done_without() -> None:
    said: list[str] = []

    def unsolvable() -> ErrorCurves:
        raise InputError("not finite")

    task = replace(toy_task(evaluations=4), curve_maker=unsolvable, notify=said.append)
    assert demonstration(task) is None
    assert said == ["it starts without the analytic plan: not finite"]
    assert demonstration(toy_task()) is None


def test_plans_that_are_one_are_demonstrated_once() -> None:
    task = toy_task(fraction=1.0, evaluations=4, walks=2, curves=True)
    assert analytic_widths(task) == uniform_widths(task) == task.dense_widths
    seed_everything(0)
    with contextlib.suppress(BudgetSpent):
        DDPGAgent().search(task)
    assert widths_asked(task).count(task.dense_widths) == 1


def test_without_a_network_it_says_why_not() -> None:
    with pytest.raises(InputError, match="no network"):
        AnalyticAgent().check(toy_task())


@pytest.mark.parametrize("demonstrated", [True, False])
def test_ddpg_follows_it_in_its_second_episode(demonstrated: bool) -> None:
    task = toy_task(evaluations=8, walks=2, curves=True)
    seed_everything(0)
    with contextlib.suppress(BudgetSpent):
        DDPGAgent(demonstrate_analytic=demonstrated).search(task)
    asked = widths_asked(task)
    assert asked[0] == uniform_widths(task)
    assert (asked[1] == analytic_widths(task)) == demonstrated
