"""The walk's arithmetic: features, the action's meaning, the budget wall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc.cost import Budget
from amc.errors import InputError
from envs.walk import FEATURES, Course, Walk
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
        executed = walk.step(action)
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
        again.step(first.step(action))
    assert first.widths == again.widths


def test_greedy_actions_fill_the_budget() -> None:
    task = toy_task(sites=8, key="macs", fraction=0.5)
    walk = Walk(Course(task))
    while not walk.done:
        walk.step(1.0)
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
        walk.step(1.0)


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
        walk.step(course.action(walk.position, int(width)))
    walk.step(course.action(5, 22))
    assert walk.widths[5] == 20, "the narrower of the two nearest that are left"


def test_walks_reach_a_budget_below_the_cost_of_the_smallest_widths() -> None:
    task = toy_task(sites=6, key="predicted_latency", fraction=TIGHT, slow_narrow=True)
    assert not task.fits(task.smallest_widths)
    for action in (0.0, 0.5, 1.0):
        walk = Walk(Course(task))
        while not walk.done:
            walk.step(action)
        assert task.fits(walk.widths)


def test_features_are_those_of_the_paper() -> None:
    task = toy_task(sites=8)
    course = Course(task)
    walk = Walk(course)
    names = list(FEATURES)
    rows = [walk.observation()]
    while not walk.done:
        walk.step(0.5)
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


def test_a_script_is_followed_whatever_the_actions() -> None:
    task = toy_task(sites=8, key="predicted_latency")
    course = Course(task)
    script = task.smallest_widths
    walk = Walk(course, script)
    executed = [walk.step(1.0) for _ in script]
    assert walk.widths == script
    assert executed == [0.0] * 8


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
