"""``kill -9`` of the driver: the search ends as if it had never happened (R1, R2)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agents import AGENTS
from amc import faults
from tests.conftest import SMALL
from tests.faults.driver import kill_after, moments
from tests.faults.runs import Reference, config_of

ONE_BATCH = ("uniform", "analytic")
MOMENTS = int(os.environ.get("AMC_FAULT_MOMENTS", "20"))
# The first time is at the first live batch after a resume, the second one batch later.
CRASHES = [
    *("folder.created:1", "evaluation.finished:1", "journal.before_append:1"),
    *("journal.before_sync:1", "journal.after_sync:1", "journal.after_sync:2"),
    *("search.batch_seen:2", "journal.before_sync:2", "search.ended:1"),
    *("result.plan_written:1", "summary.written:1"),
]
# With Ray: what is scored is small, the network is not.
RESNET20 = {
    **SMALL,
    "task": "tests.faults.runs:resnet20",
    "search_images": 250,
    "calibration_images": 100,
    "finetune_steps": 2,
    "latency": {"batch_size": 32},
    "workers": 2,
}

pytestmark = pytest.mark.slow


def survive(reference: Reference, folder: Path, agent: str) -> None:
    """Kill at random moments and at every crash point; every run that ends must equal the others.

    A run that ended before its moment came is replaced by a new one.
    """
    run, killed = 0, 0
    for seconds in moments(agent, 50 * MOMENTS, reference.seconds):
        if killed == MOMENTS:
            break
        trial = reference.again(folder / f"run{run}")
        if kill_after(trial, seconds):
            killed += 1
            continue
        assert reference.equals(trial.run_dir)
        shutil.rmtree(trial.run_dir)
        run += 1
    assert killed == MOMENTS
    trial = reference.again(folder / f"run{run}")
    assert not kill_after(trial, None)
    assert reference.equals(trial.run_dir)
    survive_points(reference, folder, one_batch=agent in ONE_BATCH)


def survive_points(reference: Reference, folder: Path, one_batch: bool) -> None:
    """Die at every crash point, each in a run of its own; searches of one batch have no second."""
    assert {crash.partition(":")[0] for crash in CRASHES} == set(faults.POINTS)
    crashes = [crash for crash in CRASHES if not one_batch or crash.endswith(":1")]
    for number, crash in enumerate(crashes):
        trial = reference.again(folder / f"points{number}")
        assert kill_after(trial, None, crash), f"{crash} was not reached"
        assert not kill_after(trial, None)
        assert reference.equals(trial.run_dir)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_killed_driver_loses_nothing(agent: str, tmp_path: Path) -> None:
    survive(Reference(tmp_path, config_of(agent)), tmp_path, agent)


@pytest.mark.parametrize("agent", ["ddpg", "netadapt"])
def test_a_killed_driver_of_ray_workers_loses_nothing(agent: str, tmp_path: Path) -> None:
    config = config_of(agent, RESNET20)
    survive(Reference(tmp_path, config, measured=False), tmp_path, agent)
