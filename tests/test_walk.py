"""The walk's arithmetic: features, the action's meaning, the budget wall."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc.cost import Budget
from amc.errors import InputError
from amc.objective import AccuracyWithinBudget
from envs.state import FEATURES, RELEASED_FEATURES, Convention
from envs.walk import Course, Walk
from tests.toy import TIGHT, toy_task

KEYS = ("macs", "params", "weight_bytes", "predicted_latency")
actions = st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    actions,
    st.sampled_from(KEYS),
    st.sampled_from((0.21, 0.3, 0.5, 0.8, 1.0)),
    st.sampled_from((2, 4)),
)
def test_every_walk_ends_within_the_budget_at_legal_widths(
    chosen: list[float], key: str, fraction: float, step: int
) -> None:
    task = toy_task(sites=8, key=key, fraction=fraction, step=step)
    walk = Walk(Course(task))
    for t, action in enumerate(chosen):
        wall = walk.wall()
        (executed,) = walk.step((action,))
        assert 0.0 <= executed <= 1.0
        assert walk.widths[t] <= wall
        assert walk.widths[t] in task.sites[t].widths
        observation = walk.observation()
        assert observation.shape == (len(FEATURES),)
        assert ((observation >= 0.0) & (observation <= 1.0)).all()
    assert walk.done
    assert task.fits(walk.widths)


@settings(max_examples=30, deadline=None)
@given(actions)
def test_the_executed_action_means_exactly_the_executed_width(chosen: list[float]) -> None:
    course = Course(toy_task(sites=8, key="predicted_latency"))
    first, again = Walk(course), Walk(course)
    for action in chosen:
        again.step(first.step((action,)))
    assert first.widths == again.widths


def test_greedy_actions_fill_the_budget() -> None:
    task = toy_task(sites=8, key="macs", fraction=0.5)
    walk = Walk(Course(task))
    while not walk.done:
        walk.step((1.0,))
    assert walk.widths[0] == task.sites[0].channels
    assert task.cost(walk.widths).macs > 0.9 * task.budget.limit


def test_the_wall_is_the_largest_width_that_fits_beside_the_floor() -> None:
    task = toy_task(sites=8, key="macs", fraction=0.3)
    course = Course(task)
    walk = Walk(course)
    while not walk.done:
        t = walk.position
        plan = [*walk.widths, *course.floor[t:]]
        fitting = [w for w in task.sites[t].widths if task.fits([*plan[:t], w, *plan[t + 1 :]])]
        assert walk.wall() == fitting[-1]
        walk.step((1.0,))


def test_widths_that_cost_more_than_a_wider_one_are_passed_over() -> None:
    task = toy_task(sites=8, key="predicted_latency", step=2, fraction=1.0)
    course = Course(task)
    slow = task.sites[5].widths.index(22)
    costs = course.costs(
        np.stack([[*course.floor[:5], w, *course.floor[6:]] for w in task.sites[5].widths])
    )
    assert costs[slow] > costs[slow + 1], "the toy's table is not monotone here"
    walk = Walk(course)
    for width in course.floor[:5]:
        walk.step((course.action(walk.position, int(width)),))
    walk.step((course.action(5, 22),))
    assert walk.widths[5] == 20, "the narrower of the two nearest that are left"


def test_walks_reach_a_budget_below_the_cost_of_the_smallest_widths() -> None:
    task = toy_task(sites=6, key="predicted_latency", fraction=TIGHT, slow_narrow=True)
    assert not task.fits(task.smallest_widths)
    for action in (0.0, 0.5, 1.0):
        walk = Walk(Course(task))
        while not walk.done:
            walk.step((action,))
        assert task.fits(walk.widths)


def test_features_are_those_of_the_paper() -> None:
    task = toy_task(sites=8)
    course = Course(task)
    walk = Walk(course)
    names = list(FEATURES)
    rows = [walk.observation()]
    while not walk.done:
        walk.step((0.5,))
        rows.append(walk.observation())
    table = np.stack(rows)
    assert table[0, names.index("t")] == 0.0
    assert table[7, names.index("t")] == 1.0
    assert table[0, names.index("previous")] == 1.0
    assert table[0, names.index("reduced")] == 0.0
    assert table[1, names.index("previous")] == pytest.approx(walk.widths[0] / 16)
    saved = 1.0 - task.cost(walk.widths).macs / task.cost(task.dense_widths).macs
    assert table[8, names.index("reduced")] == pytest.approx(saved)
    rest = table[:, names.index("rest")]
    assert (np.diff(rest) <= 0.0).all()
    assert rest[7] == rest[8] == 0.0
    static = table[:8, :8]
    assert static.min(axis=0).tolist() == [0.0] * 8
    assert static.max(axis=0).tolist() == [1.0] * 8


def test_features_are_those_of_the_released_code() -> None:
    task = toy_task(sites=8)
    walk = Walk(Course(task, Convention(state="released")))
    names = list(RELEASED_FEATURES)
    rows = [walk.observation()]
    while not walk.done:
        walk.step((0.5,))
        rows.append(walk.observation())
    table = np.stack(rows)
    assert table.shape == (9, 10)
    by_name = {name: table[:8, names.index(name)] for name in names}

    def scaled(values: list[int]) -> list[float]:
        return [(v - min(values)) / (max(values) - min(values)) for v in values]

    sites = task.sites
    assert by_name["index"].tolist() == pytest.approx(scaled(list(range(8))))
    assert by_name["type"].tolist() == [0.0] * 8, "convolutions alone"
    assert by_name["in_ch"].tolist() == pytest.approx(scaled([s.c_in for s in sites]))
    assert by_name["out_ch"].tolist() == pytest.approx(scaled([s.channels for s in sites]))
    assert by_name["stride"].tolist() == pytest.approx(scaled([s.stride for s in sites]))
    assert by_name["kernel"].tolist() == pytest.approx(scaled([s.kernel_size for s in sites]))
    assert by_name["weights"].tolist() == pytest.approx(scaled([s.weights for s in sites]))
    paper = Walk(Course(task))
    while not paper.done:
        paper.step((0.5,))
    np.testing.assert_array_equal(table[8, -3:], paper.observation()[-3:])


def test_a_linear_layer_has_no_stride_and_a_kernel_of_one() -> None:
    conv, linear = toy_task(sites=2).sites
    linear = replace(linear, kind="linear", kernel_size=7, stride=3)
    table = Convention(state="released").static([conv, linear])
    names = list(RELEASED_FEATURES)
    raw = Convention(state="released")._row(1, linear)
    assert raw[names.index("type")] == table[1, names.index("type")] == 1
    assert (raw[names.index("stride")], raw[names.index("kernel")]) == (0, 1)


def test_the_input_convention_describes_the_layer_that_uses_the_channels() -> None:
    task = toy_task(sites=3)
    static = Convention(action="input").static(task.sites)
    inputs = static[:, list(FEATURES).index("c")]
    expected = np.asarray([site.channels for site in task.sites], dtype=float)
    expected = (expected - expected.min()) / np.ptp(expected)
    np.testing.assert_allclose(inputs, expected, err_msg="the consumer's inputs are the channels")
    unused = [replace(site, consumer=None) for site in task.sites]
    with pytest.raises(InputError, match="uses the channels of site 'conv0'.*choose 'output'"):
        Convention(action="input").static(unused)


@pytest.mark.parametrize(("action", "width"), [(0.0, 20), (0.2, 20), (0.5, 32), (0.9, 48)])
def test_the_input_action_is_a_keep_ratio_cut_to_its_bounds(action: float, width: int) -> None:
    task = toy_task(sites=6, fraction=1.0)  # 64 channels at the last site, in steps of 4
    course = Course(task, Convention(action="input", lower_bound=0.3, upper_bound=0.76))
    walk = Walk(course)
    for _ in range(5):
        walk.step((0.76,))
    assert walk.step((action,)) == pytest.approx((width / 64,))
    assert walk.widths[5] == width


@settings(max_examples=60, deadline=None)
@given(actions, st.sampled_from(("output", "input")), st.sampled_from(((0.0, 0.7), (0.4, 1.0))))
def test_no_walk_leaves_the_bounds_or_the_budget(
    chosen: list[float], action: str, bounds: tuple[float, float]
) -> None:
    task = toy_task(sites=8, fraction=0.5)
    course = Course(task, Convention("paper", action, *bounds))
    walk, again = Walk(course), Walk(course)
    for wish in chosen:
        again.step(walk.step((wish,)))
    assert again.widths == walk.widths, "an executed action means its width"
    assert task.fits(walk.widths)
    for site, width in zip(task.sites, walk.widths, strict=True):
        assert width in Convention("paper", action, *bounds).widths(site)
        assert width <= bounds[1] * site.channels
        assert width >= bounds[0] * site.channels


def test_a_site_without_a_width_between_the_bounds_takes_the_next_wider() -> None:
    (site,) = toy_task(sites=1).sites
    site = replace(site, widths=(4, 16))
    assert Convention(lower_bound=0.3, upper_bound=0.9).widths(site) == (16,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"state": "mine"}, "state must be one of paper, released, but got 'mine'"),
        ({"action": "both"}, "action must be one of output, input, but got 'both'"),
        ({"lower_bound": 0.6, "upper_bound": 0.5}, "lower_bound 0.6 and upper_bound 0.5 must be"),
        ({"upper_bound": 1.5}, "upper_bound 1.5 must be keep ratios"),
    ],
)
def test_conventions_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Convention(**wrong)


def test_bounds_above_the_budget_are_refused() -> None:
    with pytest.raises(InputError, match=r"budget\.macs 0\.3 is below .* or lower lower_bound"):
        Course(toy_task(sites=8, fraction=0.3), Convention(lower_bound=0.8))


def test_without_a_wall_every_width_is_open() -> None:
    task = toy_task(sites=8, fraction=0.3, objective=AccuracyWithinBudget())
    walk = Walk(Course(task))
    while not walk.done:
        assert walk.wall() == task.sites[walk.position].channels
        walk.step((1.0,))
    assert walk.widths == task.dense_widths


def test_a_script_is_followed_whatever_the_actions() -> None:
    task = toy_task(sites=8, key="predicted_latency")
    course = Course(task)
    script = task.smallest_widths
    walk = Walk(course, script)
    executed = [walk.step((1.0,)) for _ in script]
    assert walk.widths == script
    assert executed == [(0.0,)] * 8


def test_a_script_must_be_legal_and_fit() -> None:
    task = toy_task(sites=8)
    with pytest.raises(ValueError, match="do not fit"):
        Walk(Course(task), task.dense_widths)
    with pytest.raises(ValueError, match="not a legal width of site 'conv0'"):
        Walk(Course(task), [5, *task.smallest_widths[1:]])


def test_an_impossible_budget_is_refused() -> None:
    task = toy_task(sites=8)
    task.budget = Budget("macs", 0.001, 1.0)
    with pytest.raises(InputError, match=r"budget\.macs 0\.001 is below .* raise it or lower"):
        Course(task)
