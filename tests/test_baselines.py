"""``uniform`` and ``random_search``, and the shapes that fill a budget."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.fill import fill_budget, nearest_widths
from agents.random_search import RandomSearchAgent
from agents.uniform import UniformAgent, uniform_widths
from amc.errors import BudgetSpent
from tests.toy import ToyEvaluator, toy_task


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.05, 1.0), min_size=6, max_size=6),
    st.sampled_from(("macs", "predicted_latency")),
    st.sampled_from((0.22, 0.5, 1.0)),
)
def test_any_shape_fits(shape: list[float], key: str, fraction: float) -> None:
    task = toy_task(sites=6, key=key, fraction=fraction, step=2)
    widths = fill_budget(task, np.asarray(shape))
    assert task.fits(widths)
    assert all(width in site.widths for site, width in zip(task.sites, widths, strict=True))


def test_uniform_is_the_largest_uniform_keep_ratio_that_fits() -> None:
    task = toy_task(sites=8, key="predicted_latency", fraction=0.5, step=2)
    ratios = np.linspace(1e-4, 1.0, 20_001)
    plans = nearest_widths(task, ratios[:, None] * np.asarray(task.dense_widths))
    fitting = plans[task.budget.within(task.budget_costs(plans))]
    assert uniform_widths(task) == tuple(fitting[-1])


def test_uniform_takes_one_evaluation() -> None:
    task = toy_task()
    UniformAgent().search(task)
    assert len(task.history) == 1


def test_random_plans_fill_the_budget_in_batches_and_never_repeat() -> None:
    task = toy_task(sites=6, key="macs", evaluations=42, walks=4)
    with pytest.raises(BudgetSpent):
        RandomSearchAgent().search(task)
    assert isinstance(task.evaluator, ToyEvaluator)
    assert [len(batch) for batch in task.evaluator.batches] == [4] * 10 + [2]
    assert len({e.request.plan.digest for e in task.history}) == 42
    used = np.asarray([e.cost.macs for e in task.history]) / task.budget.limit
    assert used.max() <= 1.0
    assert np.median(used) > 0.9


def test_random_search_ends_when_the_space_is_exhausted() -> None:
    task = toy_task(sites=1, key="macs", evaluations=100, walks=2)
    with contextlib.suppress(BudgetSpent):
        RandomSearchAgent().search(task)
    assert 1 <= len(task.history) <= len(task.sites[0].widths)
