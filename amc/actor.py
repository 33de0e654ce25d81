"""A worker in a process of its own, as ``amc.ray_workers`` makes many of."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from amc.data import Data
from amc.failures import Failure, failure_of
from amc.job_parts import assemble
from amc.plan import Plan
from amc.worker import Final, Job, Outcome, Start, State, Work, Worker
from amc.workers import attempt


class Actor:
    """A ``Worker``, built by ``ready``. Answers come with seconds and the process's name."""

    def __init__(self) -> None:
        self._worker: Worker
        self._name = f"{platform.node()}:{os.getpid()}"

    def ready(
        self, skeleton: Job | None = None, arrays: dict[str, Any] | None = None
    ) -> Failure | None:
        """Build the worker, and prepare what is the same for all plans; nothing without a job.

        Returns a failure only where memory was too little.
        """
        if skeleton is None or arrays is None:
            return None
        try:
            self._worker = Worker(assemble(skeleton, arrays))
            self._worker.recovery.prepare()
        except Exception as error:
            return _no_memory(error)
        return None

    def run(self, work: Work, start: Start | None) -> tuple[Outcome | Failure, float, str]:
        """Return what ``work`` comes to, from ``start``, which is shipped apart from it."""
        begin = time.perf_counter()
        result = attempt(self._worker, replace(work, start=start))
        return result, time.perf_counter() - begin, self._name

    def do(self, function: Callable[..., object], *given: object) -> tuple[object, float, str]:
        """Return what ``function`` gives; a failure only where memory was too little."""
        begin = time.perf_counter()
        try:
            result = function(*given)
        except Exception as error:
            result = _no_memory(error)
        return result, time.perf_counter() - begin, self._name

    def finalise(
        self, plan: Plan, own: State | None, test: Data | None, steps: int
    ) -> tuple[Final | Failure, float, str]:
        """Return what ``Worker.finalise`` gives; a failure only where memory was too little."""
        begin = time.perf_counter()
        try:
            final: Final | Failure = self._worker.finalise(plan, own, test, steps)
        except Exception as error:
            final = _no_memory(error)
        return final, time.perf_counter() - begin, self._name


def _no_memory(error: Exception) -> Failure:
    """Return ``error`` as a failure if memory was too little; raise it otherwise."""
    failure = failure_of(error)
    if failure.kind != "out_of_memory":
        raise error
    return failure
