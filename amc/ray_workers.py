"""Ray workers: one actor a core, one torch thread each. The only file that imports ray.

Ray itself repeats nothing. An actor that dies is replaced here, and what it worked on goes back to
the front of the queue, so that attempts can be counted, and told; an actor is given work only once
it is ready, so that one which finds no place, as after the loss of a node, holds nothing up.
"""

from __future__ import annotations

import contextlib
import copy
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. A private Ray asks for a token, and listens on loopback
# alone, as it does by itself on systems that make no clusters; a cluster has its own rules.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if "RAY_ADDRESS" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import ray
from ray import exceptions

from amc.actor import Actor
from amc.errors import InputError, SearchFailed
from amc.failures import Failure, failure_of, too_slow
from amc.job_parts import dismantle
from amc.ray_home import RayHome, own_signals
from amc.worker import Final, Job, Outcome, Work
from amc.workers import FinalWork, Finished, Limits

_TOKEN = secrets.token_hex(32)  # of every private Ray of this process, which reads it but once
PATIENCE_S = 120.0  # for which no worker may be ready while there is work
LOST = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
)
OUT_OF_MEMORY = "running low on memory"  # how Ray says that it killed an actor for that


@dataclass(eq=False)
class _Call:
    """One piece of work: where its answer belongs, what to call, what went wrong so far."""

    position: int
    method: str
    arguments: tuple[Any, ...]
    timeout_s: float | None = None
    earlier: tuple[str, ...] = ()


@dataclass(eq=False)
class _Seat:
    """A place for one actor at a time. ``ready`` is the answer to wait for, then ``None``."""

    actor: Any = None
    ready: Any = None
    deaths: int = 0  # in a row, of actors that were not ready yet


@dataclass(eq=False)
class _Batch:
    """Where a batch stands: what waits, what runs since when, and the answers."""

    queue: deque[_Call]
    running: dict[Any, tuple[_Call, _Seat, float]] = field(default_factory=dict)
    answers: dict[int, Any] = field(default_factory=dict)


class RayWorkers:
    """A pool of actors. ``RAY_ADDRESS`` joins a cluster; otherwise a private one is started.

    A second pool of one process shares the first one's Ray, which ends with the first.
    """

    def __init__(
        self, job: Job, count: int, cores: int | None = None, limits: Limits | None = None
    ) -> None:
        """Start ``count`` actors, in a private Ray of ``cores`` (by default as many)."""
        self._limits = limits or Limits()
        self._seats: list[_Seat] = []
        self._own, self._home = _connect(cores or count)
        try:
            # The driver keeps these references alive, or an actor could not be rebuilt.
            self._parts = [ray.put(part) for part in dismantle(job)]
            for _ in range(count):
                self._seats.append(self._seated(_Seat()))
        except BaseException:
            self.close()
            raise

    def run(
        self, batch: Sequence[Work], finished: Finished | None = None
    ) -> list[Outcome | Failure]:
        """See ``amc.workers.Workers.run``."""
        starts = {id(w.start): ray.put(w.start) for w in batch if w.start is not None}
        calls = [
            _Call(
                position,
                "run",
                (replace(w, start=None), starts.get(id(w.start))),
                self._limits.timeout_s,
            )
            for position, w in enumerate(batch)
        ]
        return self._spread(calls, finished)

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """See ``amc.workers.Workers.finalise``; ``SearchFailed`` where workers die each time."""
        calls = [_Call(position, "finalise", (work,)) for position, work in enumerate(batch)]
        answers = self._spread(calls, None)
        for answer in answers:
            if isinstance(answer, Failure):
                raise SearchFailed(f"a winner could not be tested: {answer.reason}")
        return answers

    def prepare(self) -> None:
        """Wait until every worker is ready; otherwise those that are do the first work alone."""
        for seat in self._seats:
            while seat.ready is not None:
                self._arrived(seat)

    def first(self, count: int) -> RayWorkers:
        """Return the pool of the first ``count`` actors, which are this one's to end."""
        part = copy.copy(self)
        part._seats = self._seats[:count]
        return part

    def close(self) -> None:
        """End the actors, and Ray itself where this pool started it."""
        for seat in self._seats:
            with contextlib.suppress(exceptions.RayError):
                ray.kill(seat.actor)
        if self._own:
            ray.shutdown()
        if self._home is not None:
            self._home.close()

    def _seated(self, seat: _Seat) -> _Seat:
        """Give ``seat`` a new actor, the old one ended; it is ready later."""
        if seat.actor is not None:
            with contextlib.suppress(exceptions.RayError):
                ray.kill(seat.actor)
        seat.actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Actor).remote()
        seat.ready = seat.actor.ready.remote(*self._parts)
        return seat

    def _spread(self, calls: Sequence[_Call], finished: Finished | None) -> list[Any]:
        """Give each ready actor the next call; return answers or failures, in order."""
        batch = _Batch(deque(calls))
        while batch.queue or batch.running:
            for seat in self._seats:
                busy = any(seat is other for _, other, _ in batch.running.values())
                if batch.queue and seat.ready is None and not busy:
                    call = batch.queue.popleft()
                    answer = getattr(seat.actor, call.method).remote(*call.arguments)
                    batch.running[answer] = call, seat, time.monotonic()
            self._wait(batch, finished)
        return [batch.answers[position] for position in range(len(calls))]

    def _wait(self, batch: _Batch, finished: Finished | None) -> None:
        """Wait for one answer, one actor that is ready, or one call's time to be up."""
        awaited = {seat.ready: seat for seat in self._seats if seat.ready is not None}
        ends = {
            answer: begin + call.timeout_s
            for answer, (call, _, begin) in batch.running.items()
            if call.timeout_s is not None
        }
        patience = None if batch.running else PATIENCE_S
        left = max(0.0, min(ends.values()) - time.monotonic()) if ends else patience
        done, _ = ray.wait([*batch.running, *awaited], num_returns=1, timeout=left)
        if done and done[0] in awaited:
            self._arrived(awaited[done[0]])
        elif done:
            self._ended(batch, done[0], finished)
        elif ends:
            self._too_slow(batch, min(ends, key=lambda answer: ends[answer]), finished)
        else:
            raise SearchFailed(
                f"no worker got ready within {PATIENCE_S:g} s; see whether the machine (or the "
                "cluster of RAY_ADDRESS) has cores and memory left, or set workers to 0"
            )

    def _arrived(self, seat: _Seat) -> None:
        """Let ``seat`` take work from now on; one whose actor died before that gets another."""
        try:
            ray.get(seat.ready)
        except LOST as error:
            seat.deaths += 1
            if seat.deaths >= self._limits.attempts:
                raise SearchFailed(
                    f"{seat.deaths} workers in a row died while they were built "
                    f"({type(error).__name__}); free memory or set workers to a smaller number"
                ) from error
            self._seated(seat)
            return
        except exceptions.RayTaskError as error:
            raise _cause(error) from error
        seat.ready, seat.deaths = None, 0

    def _ended(self, batch: _Batch, answer: Any, finished: Finished | None) -> None:
        """Take an answer; a call whose actor died, or was out of memory, may come again."""
        call, seat, begin = batch.running.pop(answer)
        try:
            result, seconds, name = ray.get(answer)
            trouble = "out of memory" if _is_out_of_memory(result) else ""
        except LOST as error:
            trouble = "out of memory" if _killed_for_memory(error) else type(error).__name__
            result, seconds, name = None, time.monotonic() - begin, "a worker that died"
        except exceptions.RayTaskError as error:
            raise _cause(error) from error
        if trouble:
            self._seated(seat)
            if self._again(call, trouble):
                batch.queue.appendleft(replace(call, earlier=(*call.earlier, trouble)))
                return
            result = self._given_up(call, trouble)
        batch.answers[call.position] = result
        if finished is not None:
            finished(call.position, seconds, name, call.earlier)

    def _again(self, call: _Call, trouble: str) -> bool:
        if trouble == "out of memory" and trouble in call.earlier:
            return False
        return len(call.earlier) + 1 < self._limits.attempts

    def _given_up(self, call: _Call, trouble: str) -> Failure:
        if trouble == "out of memory":
            return failure_of(MemoryError())
        return Failure(
            "worker_died", f"its worker died in each of {len(call.earlier) + 1} attempts"
        )

    def _too_slow(self, batch: _Batch, answer: Any, finished: Finished | None) -> None:
        """Give up a call whose time is up, and the actor with it."""
        call, seat, begin = batch.running.pop(answer)
        self._seated(seat)
        assert call.timeout_s is not None
        batch.answers[call.position] = too_slow(call.timeout_s)
        if finished is not None:
            seconds = time.monotonic() - begin
            finished(call.position, seconds, "a worker that was ended", call.earlier)


def _is_out_of_memory(result: object) -> bool:
    return isinstance(result, Failure) and result.kind == "out_of_memory"


def _killed_for_memory(error: Exception) -> bool:
    return isinstance(error, exceptions.OutOfMemoryError) or OUT_OF_MEMORY in str(error)


def _cause(error: exceptions.RayTaskError) -> Exception:
    """Return what went wrong in an actor: bad input as it is, else with Ray's traceback."""
    return error.cause if isinstance(error.cause, InputError) else error


def _connect(count: int) -> tuple[bool, RayHome | None]:
    """Join the cluster of ``RAY_ADDRESS``, or start a private one.

    Returns whether this call did so, which must then end it, and the private one's folder.
    """
    if ray.is_initialized():
        return False, None
    paths = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": "1",
    }
    quiet: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"env_vars": environment},
    }
    if address := os.environ.get("RAY_ADDRESS"):
        with own_signals():
            ray.init(address=address, **quiet)
        return True, None
    home = RayHome()
    try:
        token = home.path / "token"
        token.touch(mode=0o600)
        token.write_text(_TOKEN)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        with own_signals():
            ray.init(
                num_cpus=count,
                include_dashboard=False,
                object_store_memory=512 * 2**20,
                _temp_dir=str(home.path),
                **quiet,
            )
    except BaseException:
        ray.shutdown()
        home.close()
        raise
    return True, home
