"""DDPG's training is a function of (configuration, seed), to the last bit, in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ddpg_in_a_process import OPTIONS, searched
from tests.test_house import ROOT


def in_a_process(folder: Path, table: Path, seed: int, hashes: str) -> dict[str, Any]:
    """Return what one search in a process of its own prints; ``hashes`` seeds Python's."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ddpg_in_a_process", str(folder), str(table), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hashes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_leave_the_same_journal_and_the_same_weights(
    digits_run: Path, tmp_path: Path
) -> None:
    table = digits_run / "ddpg-s0" / "target.json"
    first = in_a_process(tmp_path / "a", table, 3, "1")
    second = in_a_process(tmp_path / "b", table, 3, "2")
    assert first == second
    assert first["evaluations"] == 12
    assert first["gradient_steps"] > 0
    assert OPTIONS["warmup_episodes"] < first["evaluations"], "some episodes follow the actor"
    assert first["actor"] != first["actor_before"], "the actor has learned"
    other = searched(tmp_path / "c", table, 4)
    assert other["journal"] != first["journal"]
    assert other["actor_before"] != first["actor_before"]
