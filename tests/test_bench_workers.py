"""``amc bench workers``: who gets which work, what is divided by what, and that Ray does it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amc import app, app_bench, bench
from amc.bench_evaluation import random_plans
from amc.config import parse_config
from amc.errors import InputError
from amc.ray_workers import RayWorkers
from amc.reporting import SilentReporter
from amc.worker import Job, Outcome, Work
from amc.workers import InProcess, outcomes
from tests.conftest import SMALL

TINY = {
    **SMALL,
    "agents": {"ddpg": {}},
    "recovery": "least_squares",
    "search_images": 50,
    "calibration_images": 50,
}


class Clocked:
    """Workers that take a second a plan, ``number`` plans at a time, on a clock of their own."""

    now = 0.0

    def __init__(self, number: int, asked: list[tuple[int, int]]) -> None:
        self.number, self.asked = number, asked

    def run(self, batch: Sequence[Work], finished: Any = None) -> list[Outcome]:
        self.asked.append((self.number, len(batch)))
        Clocked.now += -(-len(batch) // self.number)
        return [Outcome(0.5, None, 0.0, 0.0, 0.0, 0.0, 0.0) for _ in batch]


def test_rounds_take_turns_and_ask_for_batches_of_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    @contextmanager
    def pools(job: Job, count: int) -> Iterator[Mapping[int, Any]]:
        yield {number: Clocked(number, asked) for number in range(1, count + 1)}

    session, _ = app.prepare(parse_config(TINY), SilentReporter())
    monkeypatch.setattr(bench, "ray_pools", pools)
    monkeypatch.setattr("amc.bench.time.perf_counter", lambda: Clocked.now)
    settings = bench.Settings(workers=3, plans=9, rounds=2)
    row = bench.workers(session, None, settings, SilentReporter())
    assert [size for _, size in asked] == [4, 4, 1] * 9
    assert [number for number, _ in asked[::3]] == [1, 2, 3, 3, 2, 1, 1, 2, 3]
    # 9 plans in batches of 4, 4 and 1: 9, 2 + 2 + 1 and 2 + 2 + 1 seconds.
    assert row["evaluation_s"] == pytest.approx({"1": 1.0, "2": 5 / 9, "3": 5 / 9})
    assert row["speedup"] == pytest.approx(9 / 5)
    assert row["speedup_range"] == pytest.approx([9 / 5, 9 / 5])
    assert "search" not in row


def test_evaluations_and_searches_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def pools(job: Job, count: int) -> Iterator[Mapping[int, Any]]:
        yield dict.fromkeys(range(1, count + 1), InProcess(job))

    monkeypatch.setattr(bench, "ray_pools", pools)
    configs = [parse_config(TINY)]
    rows = app_bench.bench_workers(configs, 2, 8, plans=3, rounds=2, out=tmp_path)
    assert json.loads((tmp_path / "workers.json").read_text()) == rows
    (row,) = rows
    assert (row["network"], row["protocol"], row["walks"]) == ("digits", "adapted", 4)
    assert set(row["evaluation_s"]) == set(row["search"]) == {"1", "2"}
    low, high = row["speedup_range"]
    assert 0 < low <= row["speedup"] <= high
    for one in row["search"].values():
        assert one["evaluations"] == 8
        assert 0 < one["agent_s"] < one["search_s"]
        assert one["evaluations_per_s"] == pytest.approx(8 / one["search_s"])
    assert 0 <= row["search"]["1"]["idle_s"] < row["search"]["1"]["search_s"]
    assert row["search_speedup"] == pytest.approx(
        row["search"]["1"]["search_s"] / row["search"]["2"]["search_s"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 1}, "workers must be at least 2, to be held against 1, but got 1"),
        ({"evaluations": 0}, "evaluations must be at least 1, but got 0"),
        ({"plans": 0}, "plans must be at least 1, but got 0"),
        ({"rounds": 0}, "rounds must be at least 1, but got 0"),
    ],
)
def test_a_bench_of_nothing_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        app_bench.bench_workers([parse_config(TINY)], **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.long
def test_the_first_of_a_pool_of_ray_workers_work_alone() -> None:
    session, _ = app.prepare(parse_config(TINY), SilentReporter())
    works = [Work(plan, None, None, 0) for plan in random_plans(session, 4, 0)]
    with bench.ray_pools(session.job(), 2) as pools:
        names: dict[int, set[str]] = {1: set(), 2: set()}
        scores = {}
        for number, pool in pools.items():
            assert isinstance(pool, RayWorkers)
            for _ in range(2):
                answers = pool.run(works, lambda _, __, name, ___, n=number: names[n].add(name))  # type: ignore[misc]
            scores[number] = [outcome.score for outcome in outcomes(answers)]
    assert len(names[1]) == 1
    assert len(names[2]) == 2
    assert (
        scores[1] == scores[2] == [o.score for o in outcomes(InProcess(session.job()).run(works))]
    )


@pytest.mark.slow
@pytest.mark.long
def test_ray_workers_are_timed() -> None:
    (row,) = app_bench.bench_workers([parse_config(TINY)], 2, 8, plans=4, rounds=1)
    assert set(row["evaluation_s"]) == {"1", "2"}
    assert min(row["evaluation_s"].values()) > 0
    assert row["search"]["1"]["evaluations"] == row["search"]["2"]["evaluations"] == 8
    assert row["search"]["1"]["cached"] == row["search"]["2"]["cached"]
