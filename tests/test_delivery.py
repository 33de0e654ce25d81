"""Delivery of one outbox, which may be ended anywhere and goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from amc.delivery import STATE, Delivered, Delivery, counts
from amc.outbox_lines import FILE, Entry, OutboxError
from tests.outboxes import record

STORE = "http://127.0.0.1:1"


class FakeRecord:
    """A store that keeps steps, and refuses the call that ``fails_at`` counts down to."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.others: list[str] = []
        self.opened = 0
        self.fails_at = -1

    def open(self, start: Entry) -> FakeRecord:
        assert start.event == "start"
        self.opened += 1
        return self

    def points(self, entries: Sequence[Entry]) -> None:
        self._tick()
        for entry in entries:
            first = entry.values["first_step"]
            self.steps += range(first, first + len(entry.values["rows"]))

    def final(self, entry: Entry) -> None:
        self._tick()
        self.others.append("final")

    def artifact(self, path: Path) -> None:
        self._tick()
        self.others.append(path.name)

    def status(self, entry: Entry) -> None:
        self._tick()
        self.others.append(entry.values.get("status", entry.event))

    def _tick(self) -> None:
        self.fails_at -= 1
        if self.fails_at == -1:
            raise ConnectionError("away")


def deliver(delivery: Delivery) -> int:
    return sum(iter(delivery.step, 0))


def test_delivery_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amc.delivery.METRICS_PER_CALL", 4)
    record(tmp_path, 12, status=None)
    store = FakeRecord()
    store.fails_at = 1
    delivery = Delivery(tmp_path, STORE, store.open)
    with pytest.raises(ConnectionError):
        deliver(delivery)
    delivery.failed("away")
    assert counts(tmp_path, STORE) == (3, 7, "away")
    assert store.steps == [1, 2, 3, 4]
    assert deliver(delivery) == 4
    record(tmp_path, 12)
    assert deliver(Delivery(tmp_path, STORE, store.open)) == 3
    assert store.steps == list(range(1, 13))
    assert store.others == ["final", "plan.json", "finished"]
    assert store.opened == 3
    assert counts(tmp_path, STORE) == (10, 10, None)
    assert counts(tmp_path, "http://elsewhere") == (0, 10, None)


def test_an_outbox_that_is_not_the_one_delivered_is_begun_again(tmp_path: Path) -> None:
    record(tmp_path, 4)
    deliver(Delivery(tmp_path, STORE, FakeRecord().open))
    state, content = Delivered.read(tmp_path), (tmp_path / FILE).read_bytes()
    assert (state.entries, state.offset) == (6, len(content))
    for other in (content[:-5], content.replace(b"finished", b"failured"), b""):
        (tmp_path / FILE).write_bytes(other)
        assert Delivery(tmp_path, STORE, FakeRecord().open).delivered == 0
    (tmp_path / FILE).write_bytes(content)
    assert Delivery(tmp_path, STORE, FakeRecord().open).delivered == 6
    (tmp_path / STATE).unlink()
    assert Delivery(tmp_path, STORE, FakeRecord().open).delivered == 0


def test_a_line_being_written_waits_and_a_broken_one_is_named(tmp_path: Path) -> None:
    record(tmp_path, 4)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-1])
    delivery = Delivery(tmp_path, STORE, FakeRecord().open)
    assert deliver(delivery) == 5
    (tmp_path / FILE).write_bytes(content[:-5] + b"\0" * 4 + b"\n" + content)
    with pytest.raises(OutboxError, match=r"corrupt at byte (\d+): .*: truncate -s \1 "):
        deliver(delivery)


def test_files_outside_of_the_folder_stay_there(tmp_path: Path) -> None:
    folder = tmp_path / "ddpg-s0"
    record(folder, 2, status=None)
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    content = (folder / FILE).read_bytes()
    for path in ("../secret", str(tmp_path / "secret"), "link"):
        line = json.dumps({"event": "artifact", "time_ms": 1, "path": path, "sha256": "0" * 64})
        (folder / FILE).write_bytes(content + line.encode() + b"\n")
        store = FakeRecord()
        with pytest.raises(OutboxError, match="path '.*: string should match|is a link; put"):
            deliver(Delivery(folder, STORE, store.open))
        assert store.others == []
