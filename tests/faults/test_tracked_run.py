"""``kill -9`` of a run of two searches that is tracked: MLflow has each point once."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from amc import app
from tests.conftest import SMALL
from tests.fake_mlflow import FakeMlflow
from tests.faults.driver import Trial, kill_after, moments
from tests.faults.runs import Reference

# Each life loads MLflow in a process beside it, so there are fewer than of a run untracked.
MOMENTS = max(1, int(os.environ.get("AMC_FAULT_MOMENTS", "20")) // 4)
# In the first search, between the two, in the second, and at the end of the run.
CRASHES = ("search.batch_seen:2", "search.ended:1", "journal.after_sync:6", "summary.written:1")
AGENTS = {"random_search": {}, "netadapt": {"short_term_steps": 2}}
EVALUATIONS = 16
MEASURED = ("final/measured_latency_ms", "final/speedup")

pytestmark = pytest.mark.slow


def points(fake: FakeMlflow) -> dict[str, Counter[tuple[str, int]]]:
    """Return how often each step of each metric arrived, by the agent of the run.

    An end that is made again measures again: further points of what was measured are no copies.
    """
    found = {
        run["tags"]["agent"]: Counter((m["key"], m["step"]) for m in run["metrics"])
        for run in fake.runs.values()
    }
    for counts in found.values():
        assert all(counts[key, 0] for key in MEASURED)
        for key in MEASURED:
            del counts[key, 0]
    assert len(found) == len(fake.runs), "a search has two runs"
    return found


def end(trial: Trial) -> None:
    """Let a run come to its end, and deliver what is left of it."""
    assert not kill_after(trial, None)
    app.sync(trial.run_dir)


def test_a_tracked_run_of_two_searches_is_whole(tmp_path: Path) -> None:
    with FakeMlflow(tmp_path / "artifacts").serving() as undisturbed:
        config = {**SMALL, "agents": AGENTS, "evaluations": EVALUATIONS}
        config["tracking_uri"] = undisturbed.url
        reference = Reference(tmp_path, {**config, "experiment": "warm-up"})
        undisturbed.runs.clear()
        end(reference.again(tmp_path / "whole"))
        expected = points(undisturbed)
    assert set(expected) == set(AGENTS)
    lives: list[tuple[float | None, str | None]] = [
        *((moment, None) for moment in moments("tracked", MOMENTS, reference.seconds)),
        *((None, crash) for crash in CRASHES),
    ]
    for number, (moment, crash) in enumerate(lives):
        with FakeMlflow(tmp_path / f"artifacts{number}").serving() as fake:
            trial = reference.again(tmp_path / f"run{number}")
            trial = replace(trial, config={**trial.config, "tracking_uri": fake.url})
            killed = kill_after(trial, moment, crash)
            assert killed or crash is None, f"{crash} was not reached"
            end(trial)
            assert points(fake) == expected, (moment, crash)
        assert reference.equals(trial.run_dir)
