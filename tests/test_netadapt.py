"""NetAdapt: its schedule, its proposals, its family of winners."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.netadapt import NetAdaptAgent, geometric
from amc.errors import BudgetSpent, InputError
from amc.evaluation import Evaluation, Request
from amc.search_task import SearchTask
from amc.sites import Site
from tests import toy
from tests.toy import ToyEvaluator, toy_task


def batches(task: SearchTask) -> list[int]:
    assert isinstance(task.evaluator, ToyEvaluator)
    return [len(batch) for batch in task.evaluator.batches]


@pytest.mark.parametrize("key", ["macs", "params", "predicted_latency"])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("evaluations", [7, 13, 48, 300])
@pytest.mark.parametrize("step", [2, 4])
def test_ends_at_the_budget_within_its_evaluations(
    key: str, fraction: float, evaluations: int, step: int
) -> None:
    task = toy_task(sites=6, key=key, fraction=fraction, evaluations=evaluations, step=step)
    agent = NetAdaptAgent()
    agent.search(task)
    assert len(task.history) <= evaluations
    *between, last = agent.family
    assert last.iteration == len(between) > 0
    assert task.fits(last.widths)
    assert not any(task.fits(winner.widths) for winner in between)
    best = task.best()
    assert best is not None
    assert task.budget.met_by(best.cost)


def test_the_step_follows_from_the_evaluations() -> None:
    short, long = (toy_task(sites=6, key="macs", evaluations=n, step=2) for n in (19, 61))
    few, many = NetAdaptAgent(), NetAdaptAgent()
    few.search(short)
    many.search(long)
    assert few.family[-1].iteration == 3
    assert many.family[-1].iteration == 10


def test_targets_fall_by_the_published_decay_to_the_budget() -> None:
    task = toy_task(sites=6, key="macs", fraction=0.5, evaluations=61, step=2)
    agent = NetAdaptAgent()
    agent.search(task)
    dense, *targets = [winner.target for winner in agent.family]
    assert dense == task.cost(task.dense_widths).macs
    assert targets == sorted(targets, reverse=True)
    assert targets[-1] == task.budget.limit
    first = dense - targets[0]
    assert first * sum(0.96**i for i in range(10)) == pytest.approx(dense - task.budget.limit)
    for winner in agent.family:
        assert winner.evaluation.cost.macs <= winner.target


def test_proposals_start_from_the_last_winner_in_one_batch_an_iteration() -> None:
    task = replace(toy_task(sites=6, key="macs", evaluations=60), seed=5)
    agent = NetAdaptAgent(short_term_steps=7)
    agent.search(task)
    assert len(batches(task)) == len(agent.family) >= 6
    assert task.history[0].request == Request(task.plan(task.dense_widths))
    position, parent, widths = 1, None, task.dense_widths
    for size, winner in zip(batches(task)[1:], agent.family[1:], strict=True):
        batch = task.history[position : position + size]
        assert all(e.request.parent == parent for e in batch)
        assert all(e.request.finetune == 7 for e in batch)
        assert all(e.request.seed == task.seed == 5 for e in batch)
        assert len({e.request.plan.digest for e in batch}) == size
        assert winner.evaluation in batch
        assert all(new <= old for new, old in zip(winner.widths, widths, strict=True))
        position, parent, widths = position + size, winner.evaluation.key, winner.widths


def test_a_site_alone_takes_its_largest_width_that_meets_the_target() -> None:
    task = toy_task(sites=6, key="macs", evaluations=600)
    agent = NetAdaptAgent()
    agent.search(task)
    first = agent.family[1]
    changed = [
        t for t, (w, d) in enumerate(zip(first.widths, task.dense_widths, strict=True)) if w != d
    ]
    assert [task.sites[t].name for t in changed] == [first.site]
    wider = list(first.widths)
    wider[changed[0]] = min(w for w in task.sites[changed[0]].widths if w > wider[changed[0]])
    assert task.cost(wider).macs > first.target


def test_one_iteration_narrows_all_sites_together_with_emphasis_on_one() -> None:
    task = toy_task(sites=6, key="macs", fraction=0.3, evaluations=7, step=1)
    agent = NetAdaptAgent(emphasis=2.0)
    agent.search(task)
    assert [winner.iteration for winner in agent.family] == [0, 1]
    _, *proposals = task.history
    assert len(proposals) == len(task.sites)
    for t, proposal in enumerate(proposals):
        assert task.budget.met_by(proposal.cost)
        keep = list(proposal.request.plan.keep_ratios.values())
        own = keep.pop(t)
        assert max(keep) < 1, "all sites are narrowed"
        least = task.sites[t].widths[0] / task.sites[t].channels
        assert own < min(keep) - 0.05 or own == least
        # At step 1 the others keep one fraction f of their channels, this site f squared of its.
        fraction = sum(keep) / len(keep)
        assert own == pytest.approx(max(fraction**2, least), abs=0.06)


def test_both_selection_rules() -> None:
    def evaluation(score: float, macs: int) -> Evaluation:
        base = toy_task(evaluations=1)
        (made,) = base.evaluate([base.plan(base.smallest_widths)])
        cost = type(made.cost)(made.cost.latency_s, macs, made.cost.params, made.cost.weight_bytes)
        return type(made)(made.key, made.request, score, cost, score)

    task = toy_task(key="macs")
    parent = evaluation(0.90, 1000)
    proposals = [evaluation(0.88, 900), evaluation(0.87, 700), evaluation(0.80, 600)]
    ratio, accuracy = NetAdaptAgent(), NetAdaptAgent(rule="accuracy")
    assert ratio._select(proposals, parent, task, 1000.0) == 1
    assert accuracy._select(proposals, parent, task, 1000.0) == 0


def test_the_first_iterations_reference_is_the_dense_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the best of the proposals as reference, both rules would choose the same one."""

    def scores(sites: Sequence[Site], widths: NDArray[np.int64]) -> NDArray[np.float64]:
        keep = (widths / np.asarray([site.channels for site in sites])).mean(axis=1)
        return np.where(keep < 1, 0.9 + 0.001 * keep, 1.0)

    monkeypatch.setattr(toy, "toy_scores", scores)
    winners = {}
    for rule in ("ratio", "accuracy"):
        agent = NetAdaptAgent(rule=rule)
        task = toy_task(sites=6, key="macs", evaluations=61)
        agent.search(task)
        dense, first = (winner.evaluation for winner in agent.family[:2])
        assert dense == task.history[0]
        assert dense.request.plan == task.plan(task.dense_widths)
        batch = task.history[1 : 1 + batches(task)[1]]
        by_accuracy = max(batch, key=lambda e: e.score)
        by_ratio = min(
            batch, key=lambda e: (dense.score - e.score) / (dense.cost.macs - e.cost.macs)
        )
        assert first == (by_ratio if rule == "ratio" else by_accuracy)
        winners[rule] = first
    assert winners["ratio"] != winners["accuracy"]


@pytest.mark.parametrize(("rule", "same"), [("ratio", False), ("accuracy", True)])
def test_the_family_is_each_iterations_winner_and_the_result_the_best_plan(
    rule: str, same: bool
) -> None:
    agent = NetAdaptAgent(rule=rule)
    task = toy_task(sites=6, key="params", fraction=0.5, evaluations=61)
    agent.search(task)
    assert task.family == [winner.evaluation for winner in agent.family]
    assert [winner.iteration for winner in agent.family] == list(range(len(agent.family)))
    assert agent.family[0].site is None
    best = task.best()
    assert best is not None
    assert best.score == max(e.score for e in task.history if task.budget.met_by(e.cost))
    assert (best == task.family[-1]) is same


def test_too_few_evaluations_are_refused_before_anything_starts() -> None:
    task = toy_task(sites=6, evaluations=6)
    with pytest.raises(
        InputError, match=r"evaluations 6 is too few .* raise evaluations to at least 7"
    ):
        NetAdaptAgent().check(task)
    with pytest.raises(InputError):
        NetAdaptAgent().search(task)
    assert task.history == []
    with pytest.raises(
        InputError, match=r"horizon 60 is above the 30 evaluations.*; lower horizon"
    ):
        NetAdaptAgent().check(toy_task(sites=6, evaluations=30, horizon=60))


def test_a_budget_met_by_the_dense_network_needs_no_iteration() -> None:
    task = toy_task(sites=4, fraction=1.0)
    agent = NetAdaptAgent()
    agent.search(task)
    assert [winner.iteration for winner in agent.family] == [0]
    assert [e.request.plan for e in task.history] == [task.plan(task.dense_widths)]


def searched(agent: NetAdaptAgent, **options: Any) -> tuple[SearchTask, list[str]]:
    said: list[str] = []
    task = toy_task(sites=6, key="macs", step=2, **options)
    task.notify = said.append
    with contextlib.suppress(BudgetSpent):
        agent.search(task)
    return task, said


def test_the_published_steps_are_those_of_the_constants() -> None:
    agent = NetAdaptAgent(schedule="published")
    task, said = searched(agent, fraction=0.8, evaluations=600)
    assert said == []
    dense, before = float(task.cost(task.dense_widths).macs), task.cost(task.dense_widths).macs
    for i, winner in enumerate(agent.family[1:]):
        nominal = before - 0.025 * 0.96**i * dense
        assert winner.target == pytest.approx(max(nominal, task.budget.limit))
        before = winner.evaluation.cost.macs
    assert task.fits(agent.family[-1].widths)
    assert len(agent.family) <= 11, "eight steps save 0.2 of dense, or so"


def test_a_budget_below_the_bound_of_the_published_constants_is_warned_of() -> None:
    _, said = searched(NetAdaptAgent(schedule="published"), fraction=0.25, evaluations=60)
    (message,) = said
    assert "add up to 0.625 at most and end at 0.375, above budget.macs 0.25" in message
    assert "choose agents.netadapt.schedule 'adapted'" in message
    for schedule, fraction in (("published", 0.4), ("fitted", 0.25), ("adapted", 0.25)):
        agent = NetAdaptAgent(schedule=schedule)
        assert agent.shortfall(toy_task(sites=6, evaluations=600), fraction) is None


def test_too_few_evaluations_for_the_steps_are_warned_of() -> None:
    for schedule in ("published", "adapted"):
        agent = NetAdaptAgent(schedule=schedule)
        message = agent.shortfall(toy_task(sites=6, evaluations=61), 0.6)
        assert message is not None
        assert "61 evaluations, one of them of the dense network, are 10 iterations" in message
        assert "above budget.macs 0.6; raise evaluations" in message


@pytest.mark.parametrize(("evaluations", "saving"), [(181, 0.7), (241, 0.75), (601, 0.9)])
def test_the_adapted_decay_saves_just_enough(evaluations: int, saving: float) -> None:
    agent = NetAdaptAgent(schedule="adapted")
    task = toy_task(sites=6, evaluations=evaluations)
    decay = agent._decay(task, saving)
    assert 0.96 < decay < 1.0
    assert 0.025 * geometric(decay, evaluations // 6) == pytest.approx(saving)
    assert agent._decay(task, 0.3) == 0.96, "where the published one does, it stays"
    assert NetAdaptAgent(schedule="published")._decay(task, saving) == 0.96


def test_the_adapted_schedule_ends_at_a_budget_that_the_published_one_misses() -> None:
    agent = NetAdaptAgent(schedule="adapted")
    task, said = searched(agent, fraction=0.3, evaluations=240)
    assert said == []
    assert task.fits(agent.family[-1].widths)


@pytest.mark.parametrize("rule", ["ratio", "accuracy"])
@pytest.mark.parametrize("schedule", ["fitted", "published", "adapted"])
def test_both_rules_with_every_schedule(rule: str, schedule: str) -> None:
    agent = NetAdaptAgent(rule=rule, schedule=schedule)
    task, said = searched(agent, fraction=0.7, evaluations=240)
    assert said == []
    assert task.fits(agent.family[-1].widths)
    if rule == "accuracy":
        position = 1
        for size, winner in zip(batches(task)[1:], agent.family[1:], strict=True):
            batch = task.history[position : position + size]
            assert winner.evaluation.score == max(e.score for e in batch)
            position += size


def test_the_published_schedule_may_grow_beyond_its_horizon() -> None:
    NetAdaptAgent(schedule="published").check(toy_task(sites=6, evaluations=30, horizon=60))
