"""The outbox: replayed, cut, full."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from amc import outbox
from amc.outbox import OutboxTracker, is_being_written
from amc.outbox_lines import FILE
from amc.tracking import Tracker, open_tracker, tracked
from tests.outboxes import events, record, scores, tracker_of, untimed


def test_a_replay_adds_nothing_and_a_longer_search_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ddpg-s0"
    record(folder, 4)
    before = (folder / FILE).read_bytes()
    record(folder, 4)
    assert (folder / FILE).read_bytes() == before
    record(folder, 7)
    assert (folder / FILE).read_bytes().startswith(before)
    first = ["start", "points", "points", "final", "artifact", "finish"]
    assert events(folder) == [*first, "resume", "points", "points", "final", "finish"]
    assert scores(folder) == [(i, i / 10) for i in range(1, 9)]


def test_the_identity_is_drawn_once_and_moves_with_the_folder(tmp_path: Path) -> None:
    def identity(folder: Path) -> str:
        return str(json.loads((folder / FILE).read_text().splitlines()[0])["identity"])

    record(tmp_path / "a" / "ddpg-s0", 2)
    record(tmp_path / "b" / "ddpg-s0", 2)
    first = identity(tmp_path / "a" / "ddpg-s0")
    assert first != identity(tmp_path / "b" / "ddpg-s0")
    (tmp_path / "a").rename(tmp_path / "c")
    record(tmp_path / "c" / "ddpg-s0", 4)
    assert identity(tmp_path / "c" / "ddpg-s0") == first


def test_cut_at_every_byte_of_its_last_lines_and_reopened(tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "ddpg-s0"
    record(whole, 6)
    content, expected = (whole / FILE).read_bytes(), untimed(whole)
    lines = content.splitlines(keepends=True)
    folder = tmp_path / "cut" / "ddpg-s0"
    folder.mkdir(parents=True)
    for size in range(len(content) - sum(map(len, lines[-4:])), len(content)):
        (folder / FILE).write_bytes(content[:size])
        kept = content[: content.rfind(b"\n", 0, size) + 1]
        for _ in range(3):
            tracker = tracker_of(folder)
            tracker.start({}, {})
            tracker._close()
            assert (folder / FILE).read_bytes() == kept
        record(folder, 6)
        assert (folder / FILE).read_bytes().startswith(kept)
        assert untimed(folder) == expected


def test_a_broken_line_and_all_behind_it_are_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "ddpg-s0"
    record(folder, 6)
    expected = untimed(folder)
    content = (folder / FILE).read_bytes()
    at = content.index(b'"first_step":3')
    for broken in (content[:at] + b"\0" + content[at + 1 :], b"\0" * 20 + content[20:]):
        (folder / FILE).write_bytes(broken)
        record(folder, 6)
        assert untimed(folder) == expected


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    tracker = tracker_of(tmp_path)
    tracker.start({}, {})
    tracker.log_batch(1, [{"score": float("nan"), "macs": 5}])
    tracker.log(1, {"final/score": float("inf"), "final/macs": 5})
    tracker.finish("finished")
    points, final = untimed(tmp_path)[1:3]
    assert (points["rows"], final["metrics"]) == ([{"macs": 5}], {"final/macs": 5})


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    real, warnings = os.pwrite, list[str]()

    def full(file: int, data: bytes, at: int) -> int:
        if b'"first_step":5' not in data:
            return real(file, data, at)
        if half:
            return real(file, data[:10], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        record(tmp_path, 8, warn=warnings.append)
    (warning,) = warnings
    assert "the search goes on" in warning
    assert f"amc sync {tmp_path.parent}" in warning
    assert scores(tmp_path) == [(i, i / 10) for i in range(1, 5)]
    record(tmp_path, 8)
    assert scores(tmp_path) == [(i, i / 10) for i in range(1, 9)]
    assert events(tmp_path)[-1] == "finish"


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = OutboxTracker(tmp_path / "gone", "e", "r", None, warnings.append)
    tracker.start({}, {})
    tracker.log_batch(1, [{"score": 0.5}])
    tracker.finish("failed")
    assert len(warnings) == 1


def test_a_line_that_an_interruption_came_into_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def interrupted(file: int, data: bytes, at: int) -> int:
        written = real(file, data, at)
        if b'"points"' in data:
            raise KeyboardInterrupt
        return written

    def search() -> None:
        with tracked(tracker_of(tmp_path)) as tracker:
            tracker.start({}, {})
            tracker.log_batch(1, [{"score": 0.5, "a_longer_line_than_the_next_one": 1}])

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search()
    assert events(tmp_path) == ["start", "finish"]
    assert untimed(tmp_path)[-1]["status"] == "interrupted"


def test_the_first_end_stays(tmp_path: Path) -> None:
    with tracked(tracker_of(tmp_path)) as tracker:
        tracker.start({}, {})
        tracker.finish("failed")
    assert [line.get("status") for line in untimed(tmp_path)] == [None, "failed"]


def test_an_outbox_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LOCK_PATIENCE_S", 0.0)
    assert not is_being_written(tmp_path)
    tracker, warnings = tracker_of(tmp_path), list[str]()
    tracker.start({}, {})
    assert is_being_written(tmp_path)
    record(tmp_path, 2, warn=warnings.append)
    assert "BlockingIOError" in warnings[0]
    tracker.finish("finished")
    assert not is_being_written(tmp_path)
    assert events(tmp_path) == ["start", "finish"]


def test_off_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(uri: str | None) -> Tracker:
        return open_tracker(tmp_path, experiment="e", run_name="r", warn=pytest.fail, uri=uri)

    off("off").start({}, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    off(None).start({}, {})
    assert list(tmp_path.iterdir()) == []


def test_only_a_search_begun_without_an_outbox_was_known_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ddpg-s0"
    folder.mkdir(parents=True)
    for lines, formerly in ((1, None), (2, f"{tmp_path}/run/run/ddpg-s0")):
        (folder / FILE).unlink(missing_ok=True)
        (folder / "journal.jsonl").write_text("{}\n" * lines)
        record(folder, 2)
        assert untimed(folder)[0]["formerly"] == formerly
