"""Outboxes as a search writes them, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc.outbox import OutboxTracker
from amc.outbox_lines import FILE, read_entries
from amc.tracking import Status


def tracker_of(folder: Path, warn: Callable[[str], None] = pytest.fail) -> OutboxTracker:
    folder.mkdir(parents=True, exist_ok=True)
    return OutboxTracker(folder, "digits", f"run/{folder.name}", None, warn)


def record(
    folder: Path,
    evaluations: int,
    status: Status | None = "finished",
    warn: Callable[[str], None] = pytest.fail,
) -> None:
    """Track a search of ``evaluations`` from its start, as a replay does."""
    tracker = tracker_of(folder, warn)
    tracker.start({"task": "digits", "agent": {"sigma0": 0.5}}, {"agent": "ddpg"})
    for first in range(1, evaluations + 1, 2):
        tracker.log_batch(first, [{"score": first / 10}, {"score": (first + 1) / 10}])
    if status is not None:
        tracker.log(evaluations, {"final/score": evaluations / 10})
        (folder / "plan.json").write_text("{}")
        tracker.artifact(folder / "plan.json")
        tracker.finish(status)
    tracker._close()  # as the end of a process does


def events(folder: Path) -> list[str]:
    return [entry.event for entry in read_entries(folder)]


def untimed(folder: Path) -> list[dict[str, Any]]:
    """Return every line, strictly JSON, without what may differ between equal searches."""
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in {"time_ms", "identity"}} for x in lines]


def scores(folder: Path) -> list[tuple[int, float]]:
    return [
        (step, row["score"])
        for entry in read_entries(folder)
        if entry.event == "points"
        for step, row in enumerate(entry.values["rows"], start=entry.values["first_step"])
    ]
