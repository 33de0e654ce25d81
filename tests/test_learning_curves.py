"""Learning curves: what is computed over searches, and that their pictures show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amc.cost import Budget, Cost
from amc.curve_plots import COLOURS, learning_curves
from amc.evaluation import Evaluation, Request
from amc.learning_curves import Spread, best_so_far, curves_of, within
from amc.plan import Plan
from amc.plots import save
from tests.test_plots import colours, rgb

BUDGET = Budget("macs", 0.5, 50.0)


def evaluation(score: float, macs: int = 50, reward: float | None = None) -> Evaluation:
    cost = Cost(1e-3, macs, 10, 40)
    return Evaluation("k", Request(Plan({})), score, cost, score if reward is None else reward)


def test_best_so_far_skips_what_missed_the_budget() -> None:
    assert best_so_far([None, 0.2, None, 0.1, 0.3]) == [None, 0.2, 0.2, 0.2, 0.3]


def test_median_and_bands_over_searches() -> None:
    spread = Spread.of([[0.1, 0.5, 0.2], [0.3, 0.1, 0.4], [0.2, 0.2, 0.9]])
    np.testing.assert_allclose(spread.median, [0.2, 0.3, 0.5])
    np.testing.assert_allclose(spread.lowest, [0.1, 0.2, 0.4])
    np.testing.assert_allclose(spread.highest, [0.3, 0.5, 0.9])
    np.testing.assert_allclose(spread.lower_quartile, [0.15, 0.25, 0.45])
    np.testing.assert_allclose(spread.upper_quartile, [0.25, 0.4, 0.7])
    assert spread.searches == 3


def test_nothing_is_known_before_every_search_has_a_plan_within_the_budget() -> None:
    spread = Spread.of([[None, None, 0.4], [0.3, 0.2, 0.1]])
    assert spread.as_json()["median"] == [None, None, pytest.approx(0.35)]
    assert spread.as_json()["lowest"] == [None, None, pytest.approx(0.3)]


def test_a_search_that_ended_keeps_its_best() -> None:
    np.testing.assert_allclose(Spread.of([[0.5], [0.1, 0.7, 0.6]]).median, [0.3, 0.6, 0.6])


def test_scores_count_within_the_budget_alone_and_rewards_where_they_differ() -> None:
    history = [evaluation(0.9, macs=51), evaluation(0.5)]
    scores, rewards = curves_of({"ddpg": [within(history, BUDGET)]})
    assert scores["ddpg"].as_json()["median"] == [None, 0.5]
    assert rewards is None
    history.append(evaluation(0.6, reward=-1.0))
    history.append(replace(evaluation(0.8, reward=2.0), feasible=False))
    scores, rewards = curves_of({"ddpg": [within(history, BUDGET)]})
    assert rewards is not None
    assert scores["ddpg"].as_json()["median"] == [None, 0.5, 0.6, 0.6]
    assert rewards["ddpg"].as_json()["median"] == [None, 0.5, 0.5, 0.5]


def test_a_line_an_agent_and_bands_where_there_are_several_searches(tmp_path: Path) -> None:
    many = Spread.of([[0.1 * i, 0.1 * i + 0.2] for i in range(5)])
    one = Spread.of([[0.3, 0.4]])
    shown = {}
    for name, spread in (("many", many), ("one", one)):
        figure = learning_curves("digits", {"ddpg": spread, "uniform": Spread.of([[0.1]])})
        save(figure, tmp_path / f"{name}.png")
        shown[name] = len(figure.axes[0].collections)
        assert {rgb(colour) for colour in COLOURS[:2]} <= colours(tmp_path / f"{name}.png")
    assert shown == {"many": 2, "one": 0}
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["ddpg: 40.00 %", "uniform: 10.00 %"]
    labels = learning_curves("d", {"x": many}).axes[0].get_legend_handles_labels()[1]
    assert labels == ["x: 40.00 % (5 searches)"]


def test_rewards_have_a_panel_of_their_own(tmp_path: Path) -> None:
    scores, rewards = {"ddpg": Spread.of([[0.3, 0.4]])}, {"ddpg": Spread.of([[-3.0, -2.0]])}
    figure = learning_curves("digits", scores, rewards)
    assert [axes.get_ylabel().split()[1] for axes in figure.axes] == ["search", "reward"]
    assert figure.axes[1].get_lines()[0].get_ydata()[-1] == -2.0  # type: ignore[index]


@pytest.mark.parametrize("curves", [{}, {"ddpg": [[None, None]]}, {"$x^{<b>": [[None], [0.5]]}])
def test_next_to_nothing_is_drawn_too(
    tmp_path: Path, curves: dict[str, list[list[float | None]]]
) -> None:
    figure = learning_curves("$x^{", {name: Spread.of(v) for name, v in curves.items()})
    save(figure, tmp_path / "c.png")
    assert len(colours(tmp_path / "c.png")) > 2
