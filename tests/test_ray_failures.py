"""What Ray workers do when memory is short, and what is shipped to them, with a stand-in for Ray.

``test_ray_workers`` and ``faults`` have real ones.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc import app, ray_workers
from amc.config import parse_config
from amc.errors import SearchFailed
from amc.failures import Failure
from amc.job_parts import assemble
from amc.ray_workers import RayWorkers
from amc.reporting import SilentReporter
from amc.session import Session
from amc.worker import Outcome, Worker
from amc.workers import InProcess, Limits
from tests.conftest import SMALL, random_works
from tests.fake_ray import FakeRay, OutOfMemoryError, RayActorError, WorkerCrashedError

# The very words of Ray 2.60, of a worker that its memory monitor killed, and of one killed else.
MONITOR = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "192.0.2.2, ID: 2b7b) was 1.50GB used / 23.54GB limit (0.063627)\nOOM kill reason: Memory "
    "usage 1608269824B exceeded threshold of 252765008B"
)
SIGKILL = (
    "The actor died unexpectedly before finishing this task. The actor is dead because its worker "
    "process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly "
    "exits with a connection error code 2. End of file. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was "
    "called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error."
)
STARVED = Failure("out_of_memory", "out of memory, in a clean worker too")


@pytest.fixture(scope="module")
def session() -> Session:
    return app.prepare(parse_config(SMALL), SilentReporter())[0]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(ray_workers, "ray", fake)
    return fake


def dying(method: str, times: int, error: Callable[[], Exception]) -> Any:
    """Return what makes an actor die of ``error`` in each of the first calls of ``method``."""
    return lambda called, count: error() if called == method and count < times else None


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (lambda: OutOfMemoryError(MONITOR), "out of memory"),
        (lambda: RayActorError(error_msg=MONITOR), "out of memory"),
        (lambda: RayActorError(error_msg=SIGKILL), "RayActorError"),
        (RayActorError, "RayActorError"),
        (WorkerCrashedError, "WorkerCrashedError"),
    ],
    ids=["task", "actor", "sigkill", "unknown", "crash"],
)
def test_a_worker_killed_for_memory_is_replaced_once_and_any_other_by_attempts(
    session: Session, ray: FakeRay, error: Callable[[], Exception], trouble: str
) -> None:
    pool, (work,) = RayWorkers(session.job(), 1), random_works(session, 1)
    heard: list[tuple[str, ...]] = []

    def run() -> Any:
        ray.counts.clear()
        return pool.run([work], lambda _, __, ___, earlier: heard.append(earlier))[0]

    ray.disturb = dying("run", 1, error)
    assert isinstance(run(), Outcome)
    ray.disturb = dying("run", 1000, error)
    result = run()
    if trouble == "out of memory":
        assert result == STARVED
        assert heard == [(trouble,), (trouble,)]
        assert ray.built == 1 + 1 + 2
    else:
        assert result == Failure("worker_died", "its worker died in each of 6 attempts")
        assert heard == [(trouble,), (trouble,) * 5]
        assert ray.built == 1 + 1 + 6


class _Scarce:
    """Stands for ``assemble`` in an actor: the first workers find no memory."""

    def __init__(self, without: int) -> None:
        self.without = without

    def __call__(self, *parts: Any) -> Any:
        self.without -= 1
        if self.without >= 0:
            raise MemoryError
        return assemble(*parts)


def test_a_worker_that_finds_no_memory_is_built_once_more(
    session: Session, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amc.actor.assemble", _Scarce(1))
    said: list[str] = []
    (result,) = RayWorkers(session.job(), 1, warn=said.append).run(random_works(session, 1))
    assert isinstance(result, Outcome)
    assert ray.built == 2
    assert not said


@pytest.mark.parametrize("prepared", [False, True])
def test_without_memory_for_all_workers_there_are_fewer(
    session: Session, ray: FakeRay, prepared: bool
) -> None:
    said: list[str] = []
    ray.disturb = dying("ready", 4, lambda: OutOfMemoryError(MONITOR))
    pool, works = RayWorkers(session.job(), 3, warn=said.append), random_works(session, 5)
    if prepared:
        pool.prepare()
    assert pool.run(works) != []
    assert len(said) == 2
    assert said[-1].startswith("no memory for one of the workers; going on with 1 ")
    assert ray.built == 3 + 2


def test_without_memory_for_any_worker_the_search_ends_with_the_cause(
    session: Session, ray: FakeRay
) -> None:
    ray.disturb = dying("ready", 1000, lambda: OutOfMemoryError(MONITOR))
    pool = RayWorkers(session.job(), 2)
    with pytest.raises(SearchFailed, match="no worker can be built: out of memory; .* smaller"):
        pool.run(random_works(session, 3))
    assert ray.built == 2 * 2


def test_workers_that_die_while_they_are_built_end_the_search(
    session: Session, ray: FakeRay
) -> None:
    ray.disturb = dying("ready", 1000, RayActorError)
    pool = RayWorkers(session.job(), 1, limits=Limits(attempts=3))
    with pytest.raises(SearchFailed, match="3 workers in a row died .* .RayActorError"):
        pool.run(random_works(session, 1))


@pytest.mark.slow
def test_in_process_a_worker_is_built_twice_then_the_search_ends(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, *_ = random_works(session, 1)
    pool = InProcess(session.job())
    built: list[int] = []

    def no_memory(job: Any, enough: int) -> Worker:
        built.append(1)
        if len(built) < enough:
            raise MemoryError
        return Worker(job)

    monkeypatch.setattr("amc.workers.Worker", lambda job: no_memory(job, 2))
    monkeypatch.setattr(Worker, "run", lambda *_: [0] * 2**62)
    assert pool.run([work]) == [STARVED]
    monkeypatch.setattr("amc.workers.Worker", lambda job: no_memory(job, 1000))
    for _ in range(2):  # the pool is no worse for it
        built.clear()
        with pytest.raises(SearchFailed, match="ran out of memory while it was built, twice; free"):
            pool.run([work])
        assert len(built) == 2
    with pytest.raises(SearchFailed, match="while it was built"):
        InProcess(session.job())


def test_a_winner_without_memory_is_tried_once_more(
    session: Session, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = random_works(session, 1)
    finalise, tried = Worker.finalise, list[int]()

    def scarce(self: Worker, *arguments: Any) -> Any:
        tried.append(1)
        if len(tried) % 2:
            raise MemoryError
        return finalise(self, *arguments)

    monkeypatch.setattr(Worker, "finalise", scarce)
    pools = InProcess(session.job()), RayWorkers(session.job(), 1)
    here, there = (pool.finalise([(work.plan, None, None, 0)])[0] for pool in pools)
    assert here.searched == there.searched
    monkeypatch.setattr(Worker, "finalise", lambda *_: [0] * 2**62)
    for pool in pools:
        with pytest.raises(SearchFailed, match="a winner could not be tested: out of memory"):
            pool.finalise([(work.plan, None, None, 0)])


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.slow
def test_weights_are_shipped_once_a_parent_and_freed_with_the_batch(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, batches = RayWorkers.run, list[tuple[int, int]]()

    def counted(self: RayWorkers, batch: Any, finished: Any = None) -> Any:
        kept, shipped = len(ray.kept), len(ray.put_bytes)
        results = run(self, batch, finished)
        children = sum(work.start is not None for work in batch)
        batches.append((children, len(ray.put_bytes) - shipped))
        gc.collect()  # the stand-in's exceptions know the frames that raised them
        assert len(ray.kept) == kept
        return results

    monkeypatch.setattr(RayWorkers, "run", counted)
    calls = iter(range(1, 100))
    # A worker dies now and then, and what it worked on is shipped no second time.
    ray.disturb = lambda method, _: (
        RayActorError() if method == "run" and next(calls) % 5 == 0 else None
    )
    config = parse_config({**SMALL, "agents": {"netadapt": {"evaluations": 24}}, "workers": 2})
    app.search(config, tmp_path / "run")
    assert max(children for children, _ in batches) > 1
    assert [shipped for _, shipped in batches] == [min(1, children) for children, _ in batches]
    assert all(ray.put_bytes)
