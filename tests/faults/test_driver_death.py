"""``kill -9`` of the driver: the search ends as if it had never happened (R1, R2)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents import AGENTS
from amc import faults
from tests.conftest import SMALL
from tests.faults.driver import kill_after, moments
from tests.faults.runs import Reference, config_of

MOMENTS = int(os.environ.get("AMC_FAULT_MOMENTS", "20"))
# In this order, each in the next life of one run. A batch that was written is replayed then, which
# `search.batch_seen` alone counts: its third one is the first that is live.
BEFORE = ("folder.created:1", "evaluation.finished:1", "journal.before_append:1")
WRITING = ("journal.before_sync:1", "journal.after_sync:1", "search.batch_seen:3")
ENDING = ("search.ended:1", "result.plan_written:1", "summary.written:1")
CHAIN = ((*BEFORE, *WRITING, *ENDING),)
# A single batch is written only once.
CHAINS_OF_ONE = ((*BEFORE, WRITING[0], *ENDING), (WRITING[1], "search.batch_seen:1"))
ONE_BATCH = ("uniform", "analytic", "shallow", "deep")
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


def die_at_each(reference: Reference, folder: Path, chains: Sequence[Sequence[str]]) -> None:
    """Die at every crash point, those of a chain in one run; each run must equal the others."""
    assert {crash.partition(":")[0] for chain in chains for crash in chain} == set(faults.POINTS)
    for number, chain in enumerate(chains):
        trial = reference.again(folder / f"points{number}")
        for crash in chain:
            assert kill_after(trial, None, crash), f"{crash} was not reached"
        assert not kill_after(trial, None)
        assert reference.equals(trial.run_dir)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_killed_driver_loses_nothing(agent: str, tmp_path: Path) -> None:
    reference = Reference(tmp_path, config_of(agent))
    survive(reference, tmp_path, agent)
    die_at_each(reference, tmp_path, CHAINS_OF_ONE if agent in ONE_BATCH else CHAIN)


@pytest.mark.parametrize("agent", ["ddpg", "netadapt"])
def test_a_killed_driver_of_ray_workers_loses_nothing(agent: str, tmp_path: Path) -> None:
    reference = Reference(tmp_path, config_of(agent, RESNET20), measured=False)
    survive(reference, tmp_path, agent)
    die_at_each(reference, tmp_path, CHAIN)
