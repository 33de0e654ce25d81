"""``amc bench workers``: how evaluations, and a whole search, scale over Ray workers.

The pools of 1, 2, ... workers are the first so many of one pool's actors, and take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc.bench_evaluation import random_plans
from amc.failures import Failure
from amc.reporting import Reporter
from amc.search_run import Found
from amc.session import Session
from amc.worker import Final, Job, Outcome, Work
from amc.workers import FinalWork, Finished, Workers

Pools = Mapping[int, Workers]


@dataclass(frozen=True)
class Settings:
    """How much is timed: ``plans`` random ones, ``rounds`` times, on 1 to ``workers`` workers."""

    workers: int = 2
    plans: int = 16
    rounds: int = 5
    seed: int = 0


@contextmanager
def ray_pools(job: Job, count: int) -> Iterator[Pools]:
    """Start ``count`` Ray workers; give the pool of the first n of them, for each n."""
    from amc.ray_workers import RayWorkers

    pool = RayWorkers(job, count)
    try:
        pool.prepare()
        yield {number: pool.first(number) for number in range(1, count + 1)}
    finally:
        pool.close()


def workers(
    session: Session,
    search: Callable[[Workers], Found] | None,
    settings: Settings,
    reporter: Reporter,
) -> dict[str, Any]:
    """Return how long one evaluation takes on 1, 2, ... workers, and how they scale.

    Random plans are evaluated in batches of ``walks``, as a search asks for them. ``evaluation_s``
    has, by number of workers, the median over rounds of the seconds of all over their number;
    ``speedup`` is the median of one worker's over that of all of them, each in the same round, and
    ``speedup_range`` its least and largest value. Preparation goes before, in a round not counted.
    With ``search``, a whole one is made on one worker and on all; see ``_of_search``.
    """
    with ray_pools(session.job(), settings.workers) as pools:
        seconds = _rounds(session, pools, settings, reporter)
        one, most = seconds[1], seconds[settings.workers]
        row = {
            "network": session.task.name,
            "recovery": session.config.recovery,
            "calibration_images": len(session.calibration),
            "search_images": len(session.task.search),
            "workers": settings.workers,
            "walks": session.config.walks,
            "plans": settings.plans,
            "rounds": settings.rounds,
            "evaluation_s": {str(n): float(np.median(taken)) for n, taken in seconds.items()},
            "speedup": float(np.median(one / most)),
            "speedup_range": [float(np.min(one / most)), float(np.max(one / most))],
        }
        if search is not None:
            row |= _searches(search, pools, settings.workers)
    return row


def _rounds(
    session: Session, pools: Pools, settings: Settings, reporter: Reporter
) -> dict[int, NDArray[np.float64]]:
    """Return seconds an evaluation, ``[rounds]`` by number of workers.

    The pools take turns, in every other round the other way round.
    """
    plans = random_plans(session, settings.plans, settings.seed)
    works = [Work(plan, None, None, 0) for plan in plans]
    walks = session.config.walks
    batches = [works[start : start + walks] for start in range(0, len(works), walks)]
    seconds: dict[int, list[float]] = {number: [] for number in pools}
    steps = len(pools) * (settings.rounds + 1)
    with reporter.task(f"timing {session.task.name}", steps) as bar:
        for turn in range(settings.rounds + 1):
            for number in sorted(pools, reverse=bool(turn % 2)):
                taken = _timed(pools[number], batches) / len(works)
                bar.advance(1, f"{number} worker{'s' if number > 1 else ''}: {taken:.3f} s a plan")
                if turn:
                    seconds[number].append(taken)
    return {number: np.asarray(taken) for number, taken in seconds.items()}


def _timed(pool: Workers, batches: Sequence[Sequence[Work]]) -> float:
    begin = time.perf_counter()
    for batch in batches:
        pool.run(batch)
    return time.perf_counter() - begin


class _Stopwatch:
    """A pool that adds up the seconds for which it was waited."""

    def __init__(self, pool: Workers) -> None:
        self._pool = pool
        self.waited_s = 0.0

    def run(
        self, batch: Sequence[Work], finished: Finished | None = None
    ) -> Sequence[Outcome | Failure]:
        begin = time.perf_counter()
        outcomes = self._pool.run(batch, finished)
        self.waited_s += time.perf_counter() - begin
        return outcomes

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        return self._pool.finalise(batch)

    def close(self) -> None:
        self._pool.close()


def _searches(
    search: Callable[[Workers], Found], pools: Pools, most: int
) -> dict[str, dict[str, Any] | float]:
    """Return what the same search took on one worker and on all, and how many times as fast."""
    found = {}
    for number in (most, 1):
        watched = _Stopwatch(pools[number])
        found[number] = _of_search(search(watched), watched.waited_s, number)
    return {
        "search": {str(number): found[number] for number in (1, most)},
        "search_speedup": found[1]["search_s"] / found[most]["search_s"],
    }


def _of_search(found: Found, waited_s: float, number: int) -> dict[str, Any]:
    """Return seconds of one search, all included, and what of them the workers worked.

    ``agent_s`` is when no worker had anything to do: the agent learns and draws. ``idle_s`` is how
    long the mean worker waited for others of its batch or for the next plan, the agent's time not
    counted; ``evaluations_per_s`` are requests, from the cache too.
    """
    worked_s = sum(e.observed["evaluation_s"] for e in found.history if not e.cached)
    return {
        "search_s": found.search_s,
        "evaluations": len(found.history),
        "cached": sum(e.cached for e in found.history),
        "evaluations_per_s": len(found.history) / found.search_s,
        "agent_s": found.search_s - waited_s,
        "idle_s": waited_s - worked_s / number,
    }
