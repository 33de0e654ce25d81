"""``amc.latency.calm``, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from amc.latency import calm
from amc.latency.clock import Timing


class Clock:
    """A clock that only moves when somebody sleeps, works or times the reference."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(calm, "time", clock)
    monkeypatch.setattr(calm, "LOOK_S", 0.1)
    monkeypatch.setattr(calm, "PATIENCE", 0.0)
    return clock


def reader(clock: Clock, state: Callable[[], float]) -> Callable[[], list[Timing]]:
    def read() -> list[Timing]:
        clock.now += 0.001
        return [Timing(state(), state(), calm=True)]

    return read


def noting(clock: Clock, runs: list[float], takes_s: float = 0.0) -> Callable[[], list[Timing]]:
    """Return work that notes when it ran."""

    def work() -> list[Timing]:
        runs.append(clock.now)
        clock.now += takes_s
        return [Timing(takes_s, takes_s, calm=True)]

    return work


def test_calm_work_runs_once_and_its_reference_is_returned(clock: Clock) -> None:
    its, runs = calm.Calm(reader(clock, lambda: 1.0), patience_s=1.0), list[float]()
    timings, around = its.during(noting(clock, runs, 0.5))
    assert len(runs) == 1
    assert timings == [Timing(0.5, 0.5, calm=True)]
    assert all(timing.calm for timing in around)
    assert [timing.wall_s for timing in around] == [1.0, 1.0]


def test_work_waits_until_the_core_is_calm(clock: Clock) -> None:
    runs: list[float] = []
    its = calm.Calm(reader(clock, lambda: 1.7 if 1 < clock.now < 2 else 1.0), 5.0)
    clock.now = 1.5
    its.during(noting(clock, runs))
    assert len(runs) == 1
    assert runs[0] >= 2


def test_work_that_was_slowed_down_is_done_again(clock: Clock) -> None:
    slowed: Iterator[float] = iter([1.7])
    working = False
    runs: list[float] = []

    def state() -> float:
        return next(slowed, 1.0) if working else 1.0

    def work() -> list[Timing]:
        nonlocal working
        working = True
        return noting(clock, runs, 0.1)()

    its = calm.Calm(reader(clock, state), 5.0)
    # One reading before the work, and one after it that takes two numbers.
    timings, around = its.during(work)
    assert len(runs) == 2
    assert len(timings) == 1
    assert {timing.wall_s for timing in around} == {1.0}


def test_patience_ends_and_then_timings_say_that_they_were_slowed_down(clock: Clock) -> None:
    runs: list[float] = []
    its = calm.Calm(reader(clock, lambda: 1.7 if clock.now > 1 else 1.0), 2.0)
    clock.now = 1.5
    timings, around = its.during(noting(clock, runs))
    assert len(runs) == 1
    assert around[0].wall_s == 1.7
    assert not any(timing.calm for timing in [*timings, *around])
    assert 3.4 < clock.now < 3.7


def test_a_core_that_is_always_slow_is_as_calm_as_it_gets(clock: Clock) -> None:
    runs: list[float] = []
    its = calm.Calm(reader(clock, lambda: 1.7), 2.0)
    timings, _ = its.during(noting(clock, runs))
    assert all(timing.calm for timing in timings)
    assert runs[0] < 0.2


def test_the_first_look_waits_for_the_speed_of_the_table(clock: Clock) -> None:
    its = calm.Calm(reader(clock, lambda: 1.7 if clock.now < 1 else 1.0), 5.0, goal_s=1.0)
    assert clock.now > 1
    assert its.fast_s <= 1.15
