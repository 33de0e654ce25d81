"""Where work is done: in this process, or on Ray (``amc.ray_workers``), with equal results."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, Protocol

from amc.data import Data
from amc.errors import InputError, SearchFailed
from amc.failures import Failure, TimedOut, failure_of, too_slow
from amc.plan import Plan
from amc.reporting import Reporter
from amc.worker import Final, Job, Outcome, State, Work, Worker

# (position in the batch, seconds on the worker, name of the worker, what went wrong before)
Finished = Callable[[int, float, str, tuple[str, ...]], None]
FinalWork = tuple[Plan, State | None, Data | None, int]
OUT_OF_MEMORY = "out of memory"  # the trouble that is worth one more attempt, not several


@dataclass(frozen=True)
class Limits:
    """What one piece of work may take: ``attempts`` where workers die, and seconds, if limited.

    The clock starts when a worker that is ready starts on it. Final work takes what it takes.
    """

    attempts: int = 6
    timeout_s: float | None = None

    def again(self, earlier: Sequence[str], trouble: str) -> bool:
        """Return whether to try once more after ``trouble``, and after what went wrong before."""
        if trouble == OUT_OF_MEMORY and trouble in earlier:
            return False
        return len(earlier) + 1 < self.attempts


class Workers(Protocol):
    """A pool that does batches of work and keeps their order."""

    def run(
        self, batch: Sequence[Work], finished: Finished | None = None
    ) -> Sequence[Outcome | Failure]:
        """Return what each piece of work came to, in order; ``finished`` hears of each as it ends.

        Raises ``InputError`` where the work itself is wrong, and ``SearchFailed`` where there are
        no workers any more.
        """
        ...

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """Return what ``Worker.finalise`` gives for each, in order; raises what it raises."""
        ...

    def close(self) -> None:
        """Let the pool go. Afterwards no process of it is left."""
        ...


def attempt(
    worker: Worker, work: Work, limit: AbstractContextManager[None] | None = None
) -> Outcome | Failure:
    """Return what ``work`` comes to on ``worker``; ``InputError`` and interruptions pass.

    ``limit`` is entered once the worker has prepared what is the same for all plans.
    """
    try:
        worker.recovery.prepare()
        with limit or nullcontext():
            outcome = worker.run(work)
    except InputError:
        raise
    except (Exception, SystemExit, TimedOut) as error:
        return failure_of(error)
    if not math.isfinite(outcome.score):
        return Failure("not_finite", "the network's output is not finite")
    return outcome


def outcomes(results: Sequence[Outcome | Failure]) -> list[Outcome]:
    """Return ``results``; ``SearchFailed`` names the first one that is a failure."""
    scored = []
    for result in results:
        if isinstance(result, Failure):
            raise SearchFailed(f"what has to be evaluated cannot be: {result.reason}")
        scored.append(result)
    return scored


class InProcess:
    """Does the work here, one piece after the other."""

    def __init__(self, job: Job, limits: Limits | None = None) -> None:
        """Raises what ``worker`` raises."""
        self._job, self._limits = job, limits or Limits()
        self._worker: Worker | None = built(job)

    @property
    def worker(self) -> Worker:
        """The worker, a new one where the last one was broken off.

        Raises ``SearchFailed`` where there is no memory for one.
        """
        if self._worker is None:
            self._worker = built(self._job)
        return self._worker

    def prepare(self) -> None:
        """Do now what is the same for all plans; otherwise the first one pays for it."""
        self.worker.recovery.prepare()

    def run(
        self, batch: Sequence[Work], finished: Finished | None = None
    ) -> list[Outcome | Failure]:
        """See ``Workers.run``. Raises ``InputError`` for a time limit outside the main thread."""
        results: list[Outcome | Failure] = []
        for position, work in enumerate(batch):
            start = time.perf_counter()
            earlier: tuple[str, ...] = ()
            result = self._once(work)
            if isinstance(result, Failure) and result.kind == "out_of_memory":
                earlier = (OUT_OF_MEMORY,)
                result = self._once(work)
            results.append(result)
            if finished is not None:
                finished(position, time.perf_counter() - start, "in-process", earlier)
        return results

    def _once(self, work: Work) -> Outcome | Failure:
        """Return what ``work`` comes to; a worker that was broken off is let go."""
        seconds = self._limits.timeout_s
        result = attempt(self.worker, work, time_limit(seconds) if seconds else None)
        if isinstance(result, Failure) and result.kind in {"out_of_memory", "timeout"}:
            self._worker = None
        return result

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """See ``Workers.finalise``; ``SearchFailed`` where memory is too little each time."""
        return [self._final(work) for work in batch]

    def _final(self, work: FinalWork) -> Final:
        for _ in range(2):
            try:
                return self.worker.finalise(*work)
            except Exception as error:
                failure = failure_of(error)
                if failure.kind != "out_of_memory":
                    raise
            self._worker = None
        raise untested(failure)

    def close(self) -> None:
        """Nothing to let go."""


def built(job: Job) -> Worker:
    """Return a worker for ``job``; ``SearchFailed`` where there is no memory for one, twice."""
    for _ in range(2):
        gc.collect()
        try:
            return Worker(job)
        except Exception as error:
            if failure_of(error).kind != "out_of_memory":
                raise
    raise SearchFailed(
        "a worker ran out of memory while it was built, twice; free memory, or set search_images "
        "or calibration_images to a smaller number in a new run"
    )


def untested(failure: Failure) -> SearchFailed:
    """Return what ends a run whose winner cannot be finished."""
    return SearchFailed(f"a winner could not be tested: {failure.reason}")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimedOut`` in what runs inside, once it has taken so long.

    It is noticed between two instructions of Python: one call of a library runs to its end. Raises
    ``InputError`` outside the main thread, to which alone signals come.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            f"evaluation_timeout_s {seconds:g} cannot be kept in a thread other than the main one; "
            "set workers to 1 or more, or evaluation_timeout_s to null"
        )

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise TimedOut(too_slow(seconds).reason)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@contextmanager
def open_workers(
    job: Job, count: int | None, reporter: Reporter, limits: Limits | None = None
) -> Iterator[Workers]:
    """Open ``count`` Ray workers (``None``: one a core), or none at all for 0; close them after."""
    count = cores() if count is None else count
    if count == 0:
        yield InProcess(job, limits)
        return
    from amc.ray_workers import RayWorkers

    reporter.message(f"starting {count} Ray worker{'s' if count > 1 else ''}")
    pool = RayWorkers(job, count, limits=limits, warn=reporter.message)
    try:
        yield pool
    finally:
        pool.close()
