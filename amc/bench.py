"""``amc bench``: what parts of this software cost on this machine, as ratios from one session."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from amc.ray_workers import RayWorkers
from amc.reporting import Reporter
from amc.session import Session
from amc.worker import Work
from amc.workers import Workers

BATCH, ROUNDS = 16, 3


def workers(session: Session, reporter: Reporter) -> dict[str, Any]:
    """Return how long one batch of 16 evaluations takes on 1 Ray worker and on 2.

    The pools stand side by side and take turns, each time in the other order, after one round of
    warm-up; ``ratio`` is the median over rounds of the time on 2 over the time on 1.
    """
    batch = _batch(session)
    job = session.job()
    pools = {1: RayWorkers(job, 1, cores=3), 2: RayWorkers(job, 2, cores=3)}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    try:
        with reporter.task("timing batches", 2 * (ROUNDS + 1)) as bar:
            for turn in range(ROUNDS + 1):
                for count in (1, 2) if turn % 2 else (2, 1):
                    taken = _timed(pools[count], batch)
                    bar.advance(1, f"{count} worker{'s' if count > 1 else ''}: {taken:.2f} s")
                    if turn:
                        seconds[count].append(taken)
    finally:
        for pool in reversed(pools.values()):  # the first one owns Ray
            pool.close()
    ratios = np.array(seconds[2]) / np.array(seconds[1])
    return {
        "task": session.task.name,
        "evaluations": BATCH,
        "search_images": len(session.task.search),
        "rounds": ROUNDS,
        "one_worker_s": float(np.median(seconds[1])),
        "two_workers_s": float(np.median(seconds[2])),
        "ratio": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
    }


def _batch(session: Session) -> list[Work]:
    """Return plans that keep from half to all of every site."""
    works = []
    for share in np.linspace(0.5, 1.0, BATCH):
        widths = [site.nearest(share * site.channels) for site in session.space.sites]
        works.append(Work(session.space.plan(widths), None, None, 0))
    return works


def _timed(pool: Workers, batch: list[Work]) -> float:
    begin = time.perf_counter()
    pool.run(batch)
    return time.perf_counter() - begin
