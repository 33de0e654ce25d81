"""Where a batch of calls stands that Ray workers are to answer. Nothing here is of Ray itself."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from amc.failures import Failure, failure_of
from amc.workers import OUT_OF_MEMORY, Finished


@dataclass(eq=False)
class Call:
    """One piece of work: where its answer belongs, what to call, what went wrong so far."""

    position: int
    method: str
    arguments: tuple[Any, ...]
    timeout_s: float | None = None
    earlier: tuple[str, ...] = ()

    def given_up(self, trouble: str) -> Failure:
        """Return what the call comes to that is not tried again after ``trouble``."""
        if trouble == OUT_OF_MEMORY:
            return failure_of(MemoryError())
        attempts = len(self.earlier) + 1
        return Failure("worker_died", f"its worker died in each of {attempts} attempts")


@dataclass(eq=False)
class Seat:
    """A place for one actor at a time. ``ready`` is the answer to wait for, then ``None``."""

    actor: Any = None
    ready: Any = None
    earlier: tuple[str, ...] = ()  # in a row, what befell actors that were not ready yet


@dataclass(eq=False)
class Running:
    """A call that an actor works on, since ``begin`` on the monotonic clock."""

    call: Call
    seat: Seat
    begin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.begin


@dataclass(eq=False)
class Batch:
    """What waits, what runs, by the answer to wait for, and the results, by position."""

    queue: deque[Call]
    finished: Finished | None = None
    running: dict[Any, Running] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)

    def waits_for(self, seat: Seat) -> bool:
        """Return whether there is work for ``seat``, which is ready and has none."""
        busy = any(one.seat is seat for one in self.running.values())
        return bool(self.queue) and seat.ready is None and not busy

    def first_end(self) -> tuple[Any, float] | None:
        """Return whose time is up first, and in how many seconds; ``None`` without a limit."""
        ends = {
            answer: one.call.timeout_s - one.seconds
            for answer, one in self.running.items()
            if one.call.timeout_s is not None
        }
        if not ends:
            return None
        first = min(ends, key=lambda answer: ends[answer])
        return first, max(0.0, ends[first])

    def repeat(self, call: Call, trouble: str) -> None:
        """Let ``call`` come again next."""
        self.queue.appendleft(replace(call, earlier=(*call.earlier, trouble)))

    def settle(self, call: Call, result: Any, seconds: float, worker: str) -> None:
        """Take the result of ``call``, and tell of it."""
        self.results[call.position] = result
        if self.finished is not None:
            self.finished(call.position, seconds, worker, call.earlier)
