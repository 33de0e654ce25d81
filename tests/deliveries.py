"""Searches that are tracked without being made, and their delivery to a fake MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc.drain import Drain
from amc.reporting import SilentReporter
from amc.tracking import open_tracker
from tests.fake_mlflow import FakeMlflow


class Said(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def record(
    folder: Path, evaluations: int, status: str | None = "finished", uri: str | None = None
) -> None:
    """Track a search of ``evaluations``, one a batch, as its replay does too."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"run/{folder.name}"
    tracker = open_tracker(folder, experiment="digits", run_name=name, warn=pytest.fail, uri=uri)
    tracker.start({"task": "digits", "agent": {"sigma0": 0.5}}, {"agent": "ddpg"})
    for step in range(1, evaluations + 1):
        tracker.log_batch(step, [{"score": step / 10}])
    if status is not None:
        tracker.log(evaluations, {"final/score": evaluations / 10})
    tracker.finish("finished" if status else "interrupted")


def rounds(run_dir: Path, uri: str, most: int = 100) -> int:
    """Deliver, each time by a drain that knows nothing, until all is there; return the failures."""
    for failed in range(most):
        if Drain(run_dir, uri).round(lambda *_: None) is None:
            return failed
    raise AssertionError(f"not delivered in {most} rounds")


def assert_exact(fake: FakeMlflow, evaluations: int, runs: int = 1) -> None:
    assert len(fake.runs) == runs
    assert fake.points() == [(i, i / 10) for i in range(1, evaluations + 1)] * runs
    assert fake.points("final/score") == [(0, evaluations / 10)] * runs
    for run in fake.runs.values():
        assert run["status"] == "FINISHED"
        assert run["params"] == {"task": "digits", "agent.sigma0": "0.5"}


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
