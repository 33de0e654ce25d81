"""Where work is done: in this process, or on Ray (``amc.ray_workers``), with equal results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from amc.data import Data
from amc.plan import Plan
from amc.reporting import Reporter
from amc.worker import Final, Job, Outcome, State, Work, Worker

# (position in the batch, seconds on the worker, name of the worker)
Finished = Callable[[int, float, str], None]
FinalWork = tuple[Plan, State | None, Data | None, int]


class Workers(Protocol):
    """A pool that does batches of work and keeps their order."""

    def run(self, batch: Sequence[Work], finished: Finished | None = None) -> list[Outcome]:
        """Return one outcome a piece of work, in order; ``finished`` hears of each as it ends."""
        ...

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """Return what ``Worker.finalise`` gives for each, in order."""
        ...

    def close(self) -> None:
        """Let the pool go. Afterwards no process of it is left."""
        ...


class InProcess:
    """Does the work here, one piece after the other."""

    def __init__(self, job: Job) -> None:
        self.worker = Worker(job)

    def prepare(self) -> None:
        """Do now what is the same for all plans; otherwise the first one pays for it."""
        self.worker.recovery.prepare()

    def run(self, batch: Sequence[Work], finished: Finished | None = None) -> list[Outcome]:
        """See ``Workers.run``."""
        outcomes = []
        for position, work in enumerate(batch):
            start = time.perf_counter()
            outcomes.append(self.worker.run(work))
            if finished is not None:
                finished(position, time.perf_counter() - start, "in-process")
        return outcomes

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """See ``Workers.finalise``."""
        return [self.worker.finalise(*work) for work in batch]

    def close(self) -> None:
        """Nothing to let go."""


@contextmanager
def open_workers(job: Job, count: int | None, reporter: Reporter) -> Iterator[Workers]:
    """Open ``count`` Ray workers (``None``: one a core), or none at all for 0; close them after."""
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if count == 0:
        yield InProcess(job)
        return
    from amc.ray_workers import RayWorkers

    reporter.message(f"starting {count} Ray worker{'s' if count > 1 else ''}")
    pool = RayWorkers(job, count)
    try:
        yield pool
    finally:
        pool.close()
