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
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
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
from amc.failures import Failure, too_slow
from amc.job_parts import dismantle
from amc.ray_calls import Batch, Call, Running, Seat
from amc.ray_home import RayHome, own_signals, worker_environment
from amc.worker import Final, Job, Outcome, Work
from amc.workers import OUT_OF_MEMORY, FinalWork, Finished, Limits, untested

_TOKEN = secrets.token_hex(32)  # of every private Ray of this process, which reads it but once
PATIENCE_S = 120.0  # for which no worker may be ready while there is work
LOST = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
)
LOW_ON_MEMORY = "running low on memory"  # how Ray says that it killed an actor for that


class RayWorkers:
    """A pool of actors. ``RAY_ADDRESS`` joins a cluster; otherwise a private one is started.

    A second pool of one process shares the first one's Ray, which ends with the first.
    """

    def __init__(
        self,
        job: Job | None,
        count: int,
        cores: int | None = None,
        limits: Limits | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start ``count`` actors, in a private Ray of ``cores``; without a ``job`` for ``do``."""
        self._limits, self._warn = limits or Limits(), warn
        self._seats: list[Seat] = []
        self._own, self._home = _connect(cores or count)
        try:
            # The driver keeps these references alive, or an actor could not be rebuilt.
            self._parts = [] if job is None else [ray.put(part) for part in dismantle(job)]
            for _ in range(count):
                self._seats.append(self._seated(Seat()))
        except BaseException:
            self.close()
            raise

    def run(
        self, batch: Sequence[Work], finished: Finished | None = None
    ) -> list[Outcome | Failure]:
        """See ``amc.workers.Workers.run``."""
        starts = _shipped(work.start for work in batch)
        calls = [
            Call(
                position,
                "run",
                (replace(work, start=None), starts[id(work.start)]),
                self._limits.timeout_s,
            )
            for position, work in enumerate(batch)
        ]
        return self._spread(calls, finished)

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """See ``amc.workers.Workers.finalise``; ``SearchFailed`` where workers die each time."""
        tests = _shipped(test for _, _, test, _ in batch)
        calls = [
            Call(position, "finalise", (plan, own, tests[id(test)], steps))
            for position, (plan, own, test, steps) in enumerate(batch)
        ]
        answers = self._spread(calls, None)
        for answer in answers:
            if isinstance(answer, Failure):
                raise untested(answer)
        return answers

    def do(
        self, function: Callable[..., object], batch: Sequence[tuple[Any, ...]], finished: Finished
    ) -> list[Any]:
        """Return what ``function`` gives for each of ``batch``, its arguments, or a failure."""
        calls = [Call(place, "do", (function, *given)) for place, given in enumerate(batch)]
        return self._spread(calls, finished)

    def prepare(self) -> None:
        """Wait until every worker is ready; otherwise those that are do the first work alone."""
        for seat in list(self._seats):
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
            _end(seat)
        if self._own:
            ray.shutdown()
        if self._home is not None:
            self._home.close()

    def _seated(self, seat: Seat) -> Seat:
        """Give ``seat`` a new actor, the old one ended; it is ready later."""
        _end(seat)
        seat.actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Actor).remote()
        seat.ready = seat.actor.ready.remote(*self._parts)
        return seat

    def _spread(self, calls: Sequence[Call], finished: Finished | None) -> list[Any]:
        """Give each ready actor the next call; return answers or failures, in order."""
        batch = Batch(deque(calls), finished)
        while batch.queue or batch.running:
            for seat in self._seats:
                if batch.waits_for(seat):
                    call = batch.queue.popleft()
                    answer = getattr(seat.actor, call.method).remote(*call.arguments)
                    batch.running[answer] = Running(call, seat)
            self._wait(batch)
        return [batch.results[position] for position in range(len(calls))]

    def _wait(self, batch: Batch) -> None:
        """Wait for one answer, one actor that is ready, or one call's time to be up."""
        awaited = {seat.ready: seat for seat in self._seats if seat.ready is not None}
        end = batch.first_end()
        patience = None if batch.running else PATIENCE_S
        left = patience if end is None else end[1]
        done, _ = ray.wait([*batch.running, *awaited], num_returns=1, timeout=left)
        if done and done[0] in awaited:
            self._arrived(awaited[done[0]])
        elif done:
            self._ended(batch, done[0])
        elif end is not None:
            self._too_slow(batch, end[0])
        else:
            raise SearchFailed(
                f"no worker got ready within {PATIENCE_S:g} s; see whether the machine (or the "
                "cluster of RAY_ADDRESS) has cores and memory left, or set workers to 0"
            )

    def _arrived(self, seat: Seat) -> None:
        """Let ``seat`` take work from now on; one whose actor died before that gets another."""
        try:
            trouble = _trouble(ray.get(seat.ready))
        except LOST as error:
            trouble = _trouble(error)
        except exceptions.RayTaskError as error:
            raise _cause(error) from error
        if not trouble:
            seat.ready, seat.earlier = None, ()
        elif self._limits.again(seat.earlier, trouble):
            seat.earlier = (*seat.earlier, trouble)
            self._seated(seat)
        else:
            self._unbuilt(seat, trouble)

    def _unbuilt(self, seat: Seat, trouble: str) -> None:
        """Do without ``seat``, for which there is no memory; ``SearchFailed`` for the last one.

        What comes out does not depend on how many there are. Of anything else workers die alike.
        """
        if trouble != OUT_OF_MEMORY:
            raise SearchFailed(
                f"{len(seat.earlier) + 1} workers in a row died while they were built ({trouble}); "
                "free memory or set workers to a smaller number"
            )
        _end(seat)
        self._seats.remove(seat)
        seat.ready = None
        if not self._seats:
            raise SearchFailed(
                "no worker can be built: out of memory; free memory, or set workers to a smaller "
                "number (0: none beside this process)"
            )
        left = len(self._seats)
        self._warn(
            f"no memory for one of the workers; going on with {left} (free memory, or set workers "
            f"to {left})"
        )

    def _ended(self, batch: Batch, answer: Any) -> None:
        """Take an answer; a call whose actor died, or was out of memory, may come again."""
        one = batch.running.pop(answer)
        try:
            result, seconds, name = ray.get(answer)
            trouble = _trouble(result)
        except LOST as error:
            trouble = _trouble(error)
            result, seconds, name = None, one.seconds, "a worker that died"
        except exceptions.RayTaskError as error:
            raise _cause(error) from error
        if trouble:
            self._seated(one.seat)
            if self._limits.again(one.call.earlier, trouble):
                batch.repeat(one.call, trouble)
                return
            result = one.call.given_up(trouble)
        batch.settle(one.call, result, seconds, name)

    def _too_slow(self, batch: Batch, answer: Any) -> None:
        """Give up a call whose time is up, and the actor with it."""
        one = batch.running.pop(answer)
        self._seated(one.seat)
        assert one.call.timeout_s is not None
        result = too_slow(one.call.timeout_s)
        batch.settle(one.call, result, one.seconds, "a worker that was ended")


def _shipped(values: Iterable[object]) -> dict[int, Any]:
    """Return references to ``values`` by ``id``, each shipped once; they are freed with these."""
    unique = {id(value): value for value in values}
    return {key: None if value is None else ray.put(value) for key, value in unique.items()}


def _end(seat: Seat) -> None:
    if seat.actor is not None:
        with contextlib.suppress(exceptions.RayError):
            ray.kill(seat.actor)


def _trouble(result: object) -> str:
    """Return, of an answer or a lost actor, what may be tried again because of it, or nothing."""
    if isinstance(result, LOST):
        starved = isinstance(result, exceptions.OutOfMemoryError) or LOW_ON_MEMORY in str(result)
        return OUT_OF_MEMORY if starved else type(result).__name__
    starved = isinstance(result, Failure) and result.kind == "out_of_memory"
    return OUT_OF_MEMORY if starved else ""


def _cause(error: exceptions.RayTaskError) -> Exception:
    """Return what went wrong in an actor: bad input as it is, else with Ray's traceback."""
    return error.cause if isinstance(error.cause, InputError) else error


def _connect(count: int) -> tuple[bool, RayHome | None]:
    """Join the cluster of ``RAY_ADDRESS``, or start a private one.

    Returns whether this call did so, which must then end it, and the private one's folder.
    """
    if ray.is_initialized():
        return False, None
    quiet: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"env_vars": worker_environment()},
    }
    if address := os.environ.get("RAY_ADDRESS"):
        with own_signals():
            ray.init(address=address, **quiet)
        return True, None
    home = RayHome()
    try:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(home.keep(_TOKEN))
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
