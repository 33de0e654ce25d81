"""Workers that die, and a node that is lost, change nothing of what comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amc import app
from amc.config import parse_config
from amc.failures import Failure
from amc.journal import read_journal
from amc.ray_workers import RayWorkers
from amc.reporting import SilentReporter
from amc.workers import InProcess
from tests.conftest import SMALL, random_works

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = {
    **SMALL,
    "task": "tests.failing:factory",
    "agents": {"random_search": {}, "netadapt": {"evaluations": 24}},
    "evaluations": 40,
}


def test_200_evaluations_with_a_tenth_of_them_killed(fault: Path) -> None:
    session, _ = app.prepare(parse_config(CONFIG), SilentReporter())
    works = random_works(session, 200)
    expected = InProcess(session.job()).run(works)
    fault.write_text("kill 0.1")
    attempts: dict[int, int] = {}
    pool = RayWorkers(session.job(), 2)
    try:
        results = pool.run(works, lambda i, _, __, earlier: attempts.update({i: len(earlier) + 1}))
    finally:
        pool.close()
    assert not any(isinstance(result, Failure) for result in results)
    assert [r.score for r in results] == [e.score for e in expected]  # type: ignore[union-attr]
    assert sorted(attempts) == list(range(200))
    assert 1 < max(attempts.values()) <= 6


@pytest.mark.usefixtures("unmeasured")
def test_a_search_with_killed_workers_is_the_search_without(fault: Path, tmp_path: Path) -> None:
    ends = []
    for name, kind, workers in (("quiet", "none", 0), ("killed", "kill 0.1", 2)):
        fault.write_text(kind)
        config = parse_config({**CONFIG, "workers": workers})
        rows = app.search(config, tmp_path / name)["rows"]
        folders = [tmp_path / name / f"{agent}-s0" for agent in CONFIG["agents"]]
        journals = [read_journal(folder / "journal.jsonl")[1] for folder in folders]
        observed = [e.observed for journal in journals for e in journal]
        plans = [json.loads((folder / "plan.json").read_text()) for folder in folders]
        ends.append(
            (
                [[replace(e, observed={}) for e in journal] for journal in journals],
                [plan["choices"] for plan in plans],
                [row["finetuned_search_accuracy"] for row in rows],
            )
        )
    assert ends[0] == ends[1]
    assert any(seen.get("attempts", 1) > 1 for seen in observed)


def test_200_evaluations_with_a_node_removed_in_mid_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.lost_node", "200", str(tmp_path / "fault")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["equal"]
    assert told["finished"] == 200
    assert len(told["nodes"]) == 2  # the lost one had work before
    assert told["removed"]
    assert told["attempts"] <= 6
