"""Curves are measured site by site within their evaluations, and know what they did not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.analytic import analytic_losses, proportional_losses
from agents.greedy_walk import Losses
from agents.measured_curves import MeasuredCurves, require_room
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.reconstruction.curves import ErrorCurves
from amc.search_task import SearchTask
from tests.toy import sensitivities, toy_task


def measured(task: SearchTask, allowed: int, most: int = 6) -> MeasuredCurves:
    curves = MeasuredCurves(task)
    curves.measure_evenly(allowed, most)
    return curves


def is_monotone(losses: Losses) -> bool:
    return all((np.diff(its) < 0).all() and its[-1] == 0 for its in losses)


@pytest.mark.parametrize(("allowed", "each"), [(7, 1), (12, 1), (13, 2), (40, 3)])
def test_every_site_gets_the_same_number_of_widths_the_narrowest_first(
    allowed: int, each: int
) -> None:
    task = toy_task(sites=6, evaluations=60, walks=4)
    assert measured(task, allowed, most=3).measured
    dense, *plans = (
        tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history
    )
    assert dense == task.dense_widths
    assert len(plans) == len(set(plans)) == 6 * each
    for t, site in enumerate(task.sites):
        own = [plan[t] for plan in plans if plan[t] != site.full]
        assert len(own) == each
        assert min(own) == site.widths[0]
    sizes = [len(batch) for batch in task.evaluator.batches]  # type: ignore[attr-defined]
    assert set(sizes[:-1]) <= {4}


def test_losses_come_near_those_of_the_score() -> None:
    task = toy_task(sites=6, step=2, evaluations=60)
    losses = measured(task, 40).losses()
    assert is_monotone(losses)
    for site, loss, sensitivity in zip(task.sites, losses, sensitivities(task.sites), strict=True):
        gone = 1 - np.asarray(site.widths) / site.full
        # The toy's coupling of neighbours adds at most 0.02 on both sides.
        assert (loss >= sensitivity * gone**2 - 3e-3).all()
        assert (loss <= (sensitivity + 0.04) * gone**2 + 3e-3).all()


@pytest.mark.parametrize("curves", [True, False])
def test_too_few_evaluations_leave_what_is_known_without_any(curves: bool) -> None:
    task = toy_task(sites=6, curves=curves)
    known = measured(task, 6)
    assert not known.measured
    assert task.history == []
    expected = analytic_losses(task) if curves else proportional_losses(task)
    for own, its in zip(known.losses(), expected, strict=True):
        assert (own == its).all()


def test_curves_that_cannot_be_had_are_named() -> None:
    said: list[str] = []

    def unsolvable() -> ErrorCurves:
        raise InputError("not finite")

    task = replace(toy_task(), curve_maker=unsolvable, notify=said.append)
    curves = measured(task, 0)
    assert curves.losses() is curves.losses()
    assert said == ["losses are taken to be proportional to what goes: not finite"]


def answered(task: SearchTask, scores: dict[tuple[int, int], float | None]) -> MeasuredCurves:
    """Return curves that were given these scores, ``None`` for what could not be scored."""
    curves = MeasuredCurves(task)
    (dense,) = task.evaluate([task.plan(task.dense_widths)])
    answers = [_answer(dense, score) for score in scores.values()]
    curves.record(list(scores), answers)
    return curves


def _answer(dense: Evaluation, score: float | None) -> Evaluation:
    return replace(dense, score=score or 0.0, feasible=score is not None)


def test_noise_is_made_monotone_and_what_has_no_score_is_left_out() -> None:
    task = toy_task(sites=3)
    last = [len(site.widths) - 1 for site in task.sites]
    scores = {(0, 0): 0.5, (0, 1): 0.7, (0, 2): 0.6, (1, 0): None, (1, 1): 0.8, (2, 0): None}
    losses = answered(task, scores).losses()
    assert [len(its) for its in losses] == [n + 1 for n in last]
    assert is_monotone(losses)
    # The best score stands for the dense one's: 0.8.
    assert losses[0][:3] == pytest.approx([0.3, 0.15, 0.15], abs=0.004)
    assert losses[1][0] == pytest.approx(0.0, abs=0.004)
    assert losses[2][0] == pytest.approx(0.3, abs=0.004), "as much as any site"


def test_a_site_without_a_choice_and_one_of_two_widths_lose_what_they_can() -> None:
    task = toy_task(sites=2)
    first, second = task.sites
    task = replace(task, sites=(replace(first, widths=(16,)), replace(second, widths=(4, 16))))
    losses = measured(task, 10).losses()
    assert [len(its) for its in losses] == [1, 2]
    assert losses[0][0] == 0
    assert losses[1][0] > 0 == losses[1][1]


def test_measuring_that_would_leave_no_plan_is_refused() -> None:
    require_room(toy_task(evaluations=30, horizon=50), "greedy", 0.5)
    with pytest.raises(InputError, match=r"horizon 60 .* 30 evaluations .*; lower horizon"):
        require_room(toy_task(evaluations=30, horizon=60), "greedy", 0.5)
