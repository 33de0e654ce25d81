"""A search that went on elsewhere is a new MLflow run, and the one before it is delivered whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amc import app, assembly, drain_process
from amc.config import parse_config
from amc.cost import Budget
from amc.delivery import STATE
from amc.drain import Drain, left_in
from amc.earlier_outbox import Continued, set_apart
from amc.elsewhere import continue_elsewhere
from amc.journal import Journal, read_journal
from amc.machine import machine_facts
from amc.outbox import OutboxTracker
from amc.outbox_folders import outboxes_of
from amc.outbox_lines import FILE
from amc.tracked import points
from amc.tracking import Status, open_tracker
from tests.conftest import SMALL
from tests.fake_mlflow import FakeMlflow
from tests.test_journal import FACTS, Counting, request

BUDGET = Budget("macs", 0.5, 100)
THERE, HERE = {**FACTS, "machine": {"cpu": "there"}}, {**FACTS, "machine": {"cpu": "here"}}
HERE_TOO = {**FACTS, "machine": {"cpu": "here, too"}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMlflow]:
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with FakeMlflow(tmp_path / "artifacts").serving() as server:
        yield server


class Search:
    """A search that has a journal and an outbox, and makes what it is told to."""

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / "ddpg-s0"
        self.folder.mkdir(parents=True)
        self.path = self.folder / "journal.jsonl"
        Journal.create(self.path, THERE)

    def track(
        self,
        facts: dict[str, Any],
        widths: list[int],
        untracked: int = 0,
        status: Status | None = None,
    ) -> None:
        """Evaluate ``widths``, the last of them ``untracked``, as where the search is killed."""
        journal = Journal(self.path, facts)
        tracker = self.tracker(journal)
        tracker.start({"task": "digits"}, {"agent": "ddpg"})
        journal.append(Counting().evaluate([request(width) for width in widths]))
        history = [*journal.records, *Counting().evaluate([request(w) for w in widths])]
        rows = points(BUDGET, history[: len(history) - untracked], 1, None)
        tracker.log_batch(1, rows)
        if status is not None:
            (self.folder / "plan.json").write_text(json.dumps(widths))
            tracker.artifact(self.folder / "plan.json")
            tracker.finish(status)
        tracker._close()

    def tracker(self, journal: Journal) -> OutboxTracker:
        tracker = open_tracker(
            self.folder,
            experiment="digits",
            run_name="run/ddpg-s0",
            warn=pytest.fail,
            continued=Continued(journal.continues, BUDGET),
        )
        assert isinstance(tracker, OutboxTracker)
        return tracker


def deliver(run: Path, fake: FakeMlflow, drain: Drain | None = None) -> None:
    assert (drain or Drain(run, fake.url)).round(lambda *_: None) is None
    assert left_in(run, fake.url)[0] == 0


def delivered(fake: FakeMlflow) -> list[list[tuple[int, float]]]:
    """Return ``(step, score)`` as they arrived, a list a run."""
    return [
        [(m["step"], 8 * m["value"]) for m in run["metrics"] if m["key"] == "score"]
        for run in fake.runs.values()
    ]


def numbered(widths: list[int]) -> list[tuple[int, float]]:
    return [(step, float(width)) for step, width in enumerate(widths, start=1)]


@pytest.mark.parametrize("known", [True, False])
def test_the_new_steps_are_a_run_of_their_own_that_says_what_it_continues(
    tmp_path: Path, fake: FakeMlflow, known: bool
) -> None:
    search = Search(tmp_path / "run")
    drain = Drain(search.run, fake.url)  # it lives through all of this, as that of a slow server
    search.track(THERE, [1, 2, 3, 4], untracked=1)
    if known:
        deliver(search.run, fake, drain)
    assert continue_elsewhere(search.path, HERE)
    search.track(HERE, [1, 5, 6], status="finished")
    deliver(search.run, fake, drain)
    assert delivered(fake) == [numbered([1, 2, 3, 4]), numbered([1, 5, 6])]
    assert continue_elsewhere(search.path, HERE_TOO)
    search.track(HERE_TOO, [7], untracked=1)
    search.track(HERE_TOO, [8])
    for once_more in (drain, None, None):
        deliver(search.run, fake, once_more)
    assert delivered(fake) == [numbered([1, 2, 3, 4]), numbered([1, 5, 6]), numbered([7, 8])]
    runs = list(fake.runs.values())
    assert [run["status"] for run in runs] == ["KILLED", "FINISHED", "RUNNING"]
    assert [run["name"] for run in runs] == [
        *("run/ddpg-s0", "run/ddpg-s0 continued 1", "run/ddpg-s0 continued 2")
    ]
    identities = [run["tags"]["amc.search"] for run in runs]
    assert [run["tags"].get("amc.continues") for run in runs] == [None, *identities[:2]]
    assert [path.name for path in outboxes_of(search.folder)] == [
        "earlier-1",
        "earlier-2",
        "ddpg-s0",
    ]


class Killed(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("moment", range(6))
def test_setting_an_outbox_apart_may_be_ended_anywhere(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    search = Search(tmp_path / "run")
    search.track(THERE, [1, 2, 3], untracked=1)
    deliver(search.run, fake)
    (search.folder / "plan.json").write_text("of the first")
    tracker = search.tracker(Journal(search.path, THERE))
    tracker.start({}, {})
    tracker.artifact(search.folder / "plan.json")
    tracker._close()
    continue_elsewhere(search.path, HERE)
    left, real = [moment], {name: getattr(Path, name) for name in ("mkdir", "replace")}

    def counted(name: str) -> Any:
        def call(self: Path, *given: Any, **named: Any) -> Any:
            done = real[name](self, *given, **named)
            left[0] -= 1
            if left[0] == -1:
                raise Killed
            return done

        return call

    continued = Continued(["journal-1.jsonl"], BUDGET)
    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(Path, name, counted(name))
        try:
            set_apart(search.folder, continued, pytest.fail)
        except Killed:
            pass
        else:
            assert left[0] >= 0, "there are fewer moments than were tried"
    search.track(HERE, [4, 5], status="finished")
    deliver(search.run, fake)
    assert delivered(fake) == [numbered([1, 2, 3]), numbered([4, 5])]
    assert [run["status"] for run in fake.runs.values()] == ["KILLED", "FINISHED"]
    plans = [(fake.folder / name / "plan.json").read_text() for name in fake.runs]
    assert plans == ["of the first", "[4, 5]"]


def test_without_the_note_of_what_arrived_nothing_arrives_twice(
    tmp_path: Path, fake: FakeMlflow
) -> None:
    search = Search(tmp_path / "run")
    search.track(THERE, [1, 2])
    deliver(search.run, fake)
    continue_elsewhere(search.path, HERE)
    search.track(HERE, [3])
    for folder in outboxes_of(search.folder):
        (folder / STATE).unlink(missing_ok=True)
    deliver(search.run, fake)
    assert delivered(fake) == [numbered([1, 2]), numbered([3])]


def test_a_search_that_was_not_tracked_before_begins_as_a_continued_one(tmp_path: Path) -> None:
    search = Search(tmp_path / "run")
    Journal(search.path, THERE).append(Counting().evaluate([request(1)]))
    continue_elsewhere(search.path, HERE)
    search.track(HERE, [2])
    start = json.loads((search.folder / FILE).read_text().splitlines()[0])
    assert (start["run_name"], start["formerly"]) == ("run/ddpg-s0 continued 1", None)
    assert start["tags"] == {"agent": "ddpg"}


def test_a_full_disk_keeps_the_trajectories_apart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    search, told = Search(tmp_path / "run"), list[str]()
    search.track(THERE, [1, 2], untracked=1)
    before = (search.folder / FILE).read_bytes()
    continue_elsewhere(search.path, HERE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 0)
        tracker = OutboxTracker(search.folder, "e", "r", None, told.append, ["journal-1.jsonl"])
        set_apart(search.folder, Continued(["journal-1.jsonl"], BUDGET), told.append)
        tracker.start({}, {})
        tracker.log_batch(1, [{"score": 0.5}] * 3)
    assert len(told) == 2
    assert "the outbox is of the journal that is continued" in told[1]
    assert (search.folder / FILE).read_bytes() == before
    search.track(HERE, [3])
    assert len(outboxes_of(search.folder)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_a_run_that_goes_on_elsewhere_is_synced_with_what_was_before(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_process, "_start", lambda *_: None)  # all is left to amc sync
    run = tmp_path / "run"
    own = {"agents": {"random_search": {}}, "finetune_steps": 0, "tracking_uri": fake.url}
    config = {**SMALL, **own}
    app.search(parse_config(config), run)
    folder = run / "random_search-s0"
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]))  # killed, long before the end
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    (run / "summary.json").unlink()
    outbox = (folder / FILE).read_bytes().splitlines(keepends=True)
    (folder / FILE).write_bytes(b"".join(outbox[:2]))
    other = {**machine_facts(), "cpu": "another", "isa": ""}
    monkeypatch.setattr(assembly, "machine_facts", lambda: other)
    app.resume(run, continue_elsewhere=True)
    assert app.sync(run, fake.url)["left"] == 0
    first, second = fake.runs.values()
    assert [m["step"] for m in first["metrics"] if m["key"] == "score"] == list(range(1, 7))
    assert [m["step"] for m in second["metrics"] if m["key"] == "score"] == list(range(1, 9))
    assert (first["status"], second["status"]) == ("KILLED", "FINISHED")
    assert not any(m["key"].startswith("final/") for m in first["metrics"])
    assert second["tags"]["amc.continues"] == first["tags"]["amc.search"]
    assert len(read_journal(folder / "journal-1.jsonl")[1]) == 6
    assert app.sync(run, fake.url)["rows"][0]["delivered"] == 0
