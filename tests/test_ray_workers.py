"""Ray workers give what one process gives: whoever does the work, whenever, after a death too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import numpy as np
import pytest

from amc import app
from amc.config import parse_config
from amc.failures import Failure
from amc.journal import Journal
from amc.ray_home import writers
from amc.ray_workers import RayWorkers
from amc.reporting import SilentReporter
from amc.run_folder import RunFolder
from amc.search_run import run_search
from amc.session import Session
from amc.tracking import NullTracker
from amc.worker import Outcome, Start, Work
from amc.workers import InProcess, Limits
from tests.conftest import SMALL, random_works
from tests.failing import VARIABLE

CONFIG = {**SMALL, "task": "tests.failing:factory"}


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that says how scores fail; it says that they do not."""
    file = tmp_path_factory.mktemp("fault") / "fault"
    file.write_text("none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(file))
        yield file


@pytest.fixture(scope="module")
def session(fault: Path) -> Session:
    return app.prepare(parse_config(CONFIG), SilentReporter())[0]


@pytest.fixture(scope="module")
def pool(session: Session) -> Iterator[RayWorkers]:
    # room for other pools beside it
    workers = RayWorkers(
        session.job(),
        2,
        cores=5,
    )
    yield workers
    workers.close()


@pytest.fixture
def failing(fault: Path) -> Iterator[Path]:
    yield fault
    fault.write_text("none")


def works(session: Session) -> list[Work]:
    space = session.space
    plans = [space.plan([s.nearest(k * s.channels) for s in space.sites]) for k in (1, 0.7, 0.5)]
    return [Work(plan, None, 3, seed) for seed, plan in enumerate(plans)]


def same(one: Outcome | Failure, other: Outcome | Failure) -> bool:
    assert isinstance(one, Outcome)
    assert isinstance(other, Outcome)
    assert one.state is not None
    assert other.state is not None
    states = all(np.array_equal(one.state[n], other.state[n]) for n in one.state)
    return states and one.score == other.score


def test_two_workers_equal_one_process(session: Session, pool: RayWorkers) -> None:
    batch = works(session)
    here = InProcess(session.job()).run(batch)
    heard: list[tuple[int, str]] = []
    there = pool.run(batch, lambda position, _, name, __: heard.append((position, name)))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert sorted(position for position, _ in heard) == [0, 1, 2]
    assert len({name for _, name in heard}) == 2


def test_children_start_from_their_parents_weights(session: Session, pool: RayWorkers) -> None:
    parent = works(session)[1]
    (left,) = pool.run([parent])
    assert isinstance(left, Outcome)
    assert left.state is not None
    start = Start(parent.plan, left.state)
    children = [Work(parent.plan, start, 2, 7), Work(parent.plan, None, 2, 7)]
    here, there = InProcess(session.job()).run(children), pool.run(children)
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert not same(there[0], there[1])


@pytest.mark.slow
def test_work_whose_worker_dies_is_done_by_another(
    session: Session, pool: RayWorkers, failing: Path, tmp_path: Path
) -> None:
    batch = works(session)
    before = pool.run(batch)
    failing.write_text(f"kill-once {tmp_path / 'seen'}")
    heard: dict[int, tuple[str, ...]] = {}
    after = pool.run(batch, lambda position, _, __, earlier: heard.update({position: earlier}))
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    assert sorted(heard.values()) == [(), (), ("ActorDiedError",)]


@pytest.mark.long
@pytest.mark.slow
def test_work_that_kills_every_worker_is_given_up(
    session: Session, pool: RayWorkers, failing: Path
) -> None:
    failing.write_text("kill 1")
    few = pool.first(1)
    few._limits = Limits(attempts=2)
    heard: list[tuple[str, ...]] = []
    results = few.run(works(session)[:1], lambda _, __, ___, earlier: heard.append(earlier))
    assert results == [Failure("worker_died", "its worker died in each of 2 attempts")]
    assert heard == [("ActorDiedError",)]


@pytest.mark.slow
def test_work_that_takes_too_long_is_given_up_and_its_worker_ended(
    session: Session, pool: RayWorkers, failing: Path
) -> None:
    batch = random_works(session, 16)
    failing.write_text("nan")
    results = InProcess(session.job()).run(batch)
    slow = next(work for work, r in zip(batch, results, strict=True) if isinstance(r, Failure))
    failing.write_text("sleep 600")
    few = pool.first(1)
    few._limits = Limits(timeout_s=1.0)
    assert few.run([slow]) == [Failure("timeout", "no score within 1 s (evaluation_timeout_s)")]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists who listens")
def test_a_private_ray_listens_on_loopback_alone(pool: RayWorkers) -> None:
    assert pool._home is not None
    pool.run([])
    inside = listening(writers(pool._home.path) | {os.getpid()})
    assert len(inside) > 3  # the GCS, the raylet, the driver, workers
    assert all(address.is_loopback for address in inside)


def listening(processes: set[int]) -> list[IPv4Address | IPv6Address]:
    """Return the addresses on which ``processes`` listen."""
    inodes = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(descriptor.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                words = bytes.fromhex(local.partition(":")[0])  # of 32 bits, each reversed
                turned = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                address = ip_address(turned)
                found.append(getattr(address, "ipv4_mapped", None) or address)
    return found


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("pool")
def test_a_search_that_races_is_the_same_on_any_number(tmp_path: Path) -> None:
    session, _ = app.prepare(parse_config(SMALL), SilentReporter())
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
        facts = app.journal_facts(racing)
        folder = RunFolder.create(
            tmp_path / str(count), racing.config, facts, racing.table.as_json()
        )
        (search,) = folder.searches
        journal = Journal(search.journal, facts["random_search"])
        method = app.make_agent("random_search", {})
        found = run_search(
            racing, search, journal, method, workers, SilentReporter(), NullTracker()
        )
        workers.close()
        histories.append([replace(evaluation, observed={}) for evaluation in found.history])
    assert histories[0] == histories[1] == histories[2]
    assert any(evaluation.stopped_after for evaluation in histories[0])
