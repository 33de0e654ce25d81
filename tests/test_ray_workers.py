"""Ray workers give what one process gives: whoever does the work, whenever, after a death too."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amc import app
from amc.config import parse_config
from amc.ray_workers import RayWorkers
from amc.reporting import SilentReporter
from amc.run_folder import RunFolder
from amc.search_run import run_search
from amc.session import Session
from amc.tracking import NullTracker
from amc.worker import Outcome, Start, Work
from amc.workers import InProcess
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def session() -> Session:
    return app.prepare(parse_config(SMALL), SilentReporter())[0]


@pytest.fixture(scope="module")
def pool(session: Session) -> Iterator[RayWorkers]:
    workers = RayWorkers(session.job(), 2, cores=5)  # room for other pools beside it
    yield workers
    workers.close()


def works(session: Session) -> list[Work]:
    space = session.space
    plans = [space.plan([s.nearest(k * s.channels) for s in space.sites]) for k in (1, 0.7, 0.5)]
    return [Work(plan, None, 3, seed) for seed, plan in enumerate(plans)]


def same(one: Outcome, other: Outcome) -> bool:
    assert one.state is not None
    assert other.state is not None
    states = all(np.array_equal(one.state[n], other.state[n]) for n in one.state)
    return states and one.score == other.score


def test_two_workers_equal_one_process(session: Session, pool: RayWorkers) -> None:
    batch = works(session)
    here = InProcess(session.job()).run(batch)
    heard: list[tuple[int, str]] = []
    there = pool.run(batch, lambda position, _, name: heard.append((position, name)))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert sorted(position for position, _ in heard) == [0, 1, 2]
    assert len({name for _, name in heard}) == 2


def test_children_start_from_their_parents_weights(session: Session, pool: RayWorkers) -> None:
    parent = works(session)[1]
    (left,) = pool.run([parent])
    assert left.state is not None
    start = Start(parent.plan, left.state)
    children = [Work(parent.plan, start, 2, 7), Work(parent.plan, None, 2, 7)]
    here, there = InProcess(session.job()).run(children), pool.run(children)
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert not same(there[0], there[1])


@pytest.mark.slow
def test_a_killed_worker_is_replaced(session: Session, pool: RayWorkers) -> None:
    names: list[str] = []
    batch = works(session)
    before = pool.run(batch, lambda position, seconds, name: names.append(name))
    os.kill(int(names[0].rpartition(":")[2]), signal.SIGKILL)
    after = pool.run(batch)
    assert all(same(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("pool")
def test_a_search_that_races_is_the_same_on_any_number(session: Session, tmp_path: Path) -> None:
    config = parse_config(
        {
            **SMALL,
            "agents": ["random_search"],
            "evaluations": 16,
            "racing": True,
            "score": "agreement",
        }
    )
    racing = replace(session, config=app.frozen(config))
    histories = []
    for count in (0, 1, 2):
        workers = RayWorkers(racing.job(), count) if count else InProcess(racing.job())
        folder = RunFolder.create(
            tmp_path / str(count), racing.config, racing.facts, racing.table.as_json()
        )
        method = app.make_agent("random_search", {})
        found = run_search(
            racing, folder.searches[0], method, workers, SilentReporter(), NullTracker()
        )
        workers.close()
        histories.append([replace(evaluation, observed={}) for evaluation in found.history])
    assert histories[0] == histories[1] == histories[2]
    assert any(evaluation.stopped_after for evaluation in histories[0])
