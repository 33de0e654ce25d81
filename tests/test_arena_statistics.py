"""The statistics of an arena, held against small cases by hand; how often intervals are right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.arena_statistics import Bootstrap, interquartile_mean, paired_difference

SCORES = {
    "a": {"x": [1.0, 2.0, 3.0, 10.0], "y": [4.0, 4.0, 4.0, 4.0]},
    "b": {"x": [2.0, 2.0], "y": [5.0, 3.0]},
}


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == pytest.approx(1.5)
    assert interquartile_mean(np.array([[7.0], [3.0]])).tolist() == [7.0, 3.0]
    bootstrap = Bootstrap(SCORES)
    assert bootstrap.task_mean("a", "x").value == pytest.approx(2.5)
    # 1 2 | 3 4 4 4 | 4 10 of all tasks together
    assert bootstrap.mean("a").value == pytest.approx(15 / 4)
    assert bootstrap.mean("a").runs == 8


def test_the_probability_of_improvement_counts_ties_half() -> None:
    bootstrap = Bootstrap(SCORES)
    # x: 1 < 2 2, 2 = 2 2, 3 and 10 > 2 2; y: 4 < 5, 4 > 3
    found = bootstrap.improvement("a", "b")
    assert found.value == pytest.approx(((0 + 0.5 + 1 + 1) / 4 + 0.5) / 2)
    other = bootstrap.improvement("b", "a")
    assert other.value == pytest.approx(1 - found.value)
    assert other.interval is not None
    assert found.interval is not None
    assert other.interval[0] == pytest.approx(1 - found.interval[1])
    itself = Bootstrap({"a": {"x": [1.0]}, "b": {"x": [0.0]}}).improvement("a", "b")
    assert (itself.value, itself.interval) == (1.0, None)


def test_an_interval_is_that_of_all_draws() -> None:
    values, others = [1.0, 2.0, 4.0], [2.0, 3.0]
    exact = [
        np.mean([(x > y) + 0.5 * (x == y) for x in xs for y in ys])
        for xs in itertools.product(values, repeat=3)
        for ys in itertools.product(others, repeat=2)
    ]
    bootstrap = Bootstrap({"a": {"x": values}, "b": {"x": others}}, resamples=20_000)
    found = bootstrap.improvement("a", "b").interval
    assert found == pytest.approx(tuple(np.percentile(exact, [2.5, 97.5])), abs=0.03)


def test_ranks_are_averaged_over_tasks_and_shared_by_equals() -> None:
    scores = {
        "a": {"x": [3.0], "y": [1.0]},
        "b": {"x": [2.0], "y": [1.0]},
        "c": {"x": [1.0], "y": [2.0]},
    }
    ranks = Bootstrap(scores).ranks
    assert {name: rank.value for name, rank in ranks.items()} == {"a": 1.75, "b": 2.25, "c": 2.0}
    spread = Bootstrap({"a": {"x": [0.0, 3.0]}, "b": {"x": [1.0, 2.0]}}).ranks
    assert spread["a"].interval == (1.0, 2.0)
    assert sum(rank.value for rank in spread.values()) == pytest.approx(3.0)


def test_seeds_are_drawn_within_each_task() -> None:
    """Tasks of different difficulty alone leave nothing to be unsure of."""
    flat = {
        "a": {"easy": [0.9] * 4, "hard": [0.1] * 4},
        "b": {"easy": [0.8] * 4, "hard": [0.0] * 4},
    }
    bootstrap = Bootstrap(flat)
    assert bootstrap.mean("a").interval == pytest.approx((0.5, 0.5))
    assert bootstrap.ranks["a"].interval == (1.0, 1.0)
    with pytest.raises(ValueError, match="every agent"):
        Bootstrap({"a": {"easy": [1.0]}, "b": {"hard": [1.0]}})


def test_pairs_share_their_seed() -> None:
    ours = {"x": {0: 0.9, 1: 0.5, 2: 0.1}, "y": {0: 1.0, 1: 1.0}}
    theirs = {"x": {2: 0.0, 0: 0.8, 1: 0.4}, "y": {0: 0.9, 1: 0.9, 5: 0.0}}
    found = paired_difference(ours, theirs)
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.1, 0.1)), "what differs between seeds cancels out"
    assert paired_difference(ours, {"x": theirs["x"], "y": {7: 1.0}}) is None
    one = paired_difference({"x": {0: 1.0}}, {"x": {0: 0.0}})
    assert one is not None
    assert (one.value, one.interval) == (1.0, None)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    hits = np.zeros(3)
    for _ in range(200):
        a, b = generator.normal(0.0, 1.0, (2, 3, 12)) + np.arange(3)[:, None]
        a += 0.5
        scores = {
            name: {str(task): own[task].tolist() for task in range(3)}
            for name, own in (("a", a), ("b", b))
        }
        bootstrap = Bootstrap(scores, resamples=400)
        pairs = {
            name: {task: dict(enumerate(values)) for task, values in own.items()}
            for name, own in scores.items()
        }
        paired = paired_difference(pairs["a"], pairs["b"], resamples=400)
        assert paired is not None
        found = (bootstrap.task_mean("a", "0"), bootstrap.improvement("a", "b"), paired)
        # P(X > Y) of two normal variables half a deviation apart
        for place, (estimate, truth) in enumerate(zip(found, (0.5, 0.6382, 0.5), strict=True)):
            assert estimate.interval is not None
            low, high = estimate.interval
            hits[place] += low <= truth <= high
    assert (hits / 200 > 0.87).all(), hits / 200
    assert (hits / 200 < 0.995).all(), hits / 200
