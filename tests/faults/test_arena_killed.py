"""``kill -9`` of an arena on two workers: the same command ends it as if nothing had been."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc.arena_record import read_arena
from tests.arenas import EXPERIMENT, target, write
from tests.faults.driver import command
from tests.faults.runs import results
from tests.test_arena import told

__all__ = ["target", "write"]  # fixtures

KILLS, EVALUATIONS = 2, 6
ENTRIES = {"random_search": None, "evolution": None}

pytestmark = pytest.mark.slow


def recorded(run_dir: Path) -> int:
    """Return how many evaluations of an arena are on record."""
    journals = run_dir.glob("*/[!.]*/*/journal.jsonl")
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in journals)


def came_to(run_dir: Path, out: Path) -> dict[str, Any]:
    """Return what an arena came to, without what may differ between equal ones."""
    arena = read_arena(out / "arena.json").model_dump(mode="json")
    del arena["runs"]
    searches = {
        str(path.relative_to(run_dir)): results(path) for path in sorted(run_dir.glob("*/[!.]*-s*"))
    }
    assert len(searches) == 2 * len(ENTRIES)
    assert all(any(name.endswith("plan.json") for name in found) for found in searches.values())
    return {**arena, "runs": told(out / "arena.json"), "searches": searches}


def test_an_arena_whose_driver_is_killed_comes_out_the_same(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    common = {**EXPERIMENT["common"], "evaluations": EVALUATIONS}
    file = write(common=common, entries=ENTRIES, tasks={"digits": None})
    log = tmp_path / "told"

    def arguments(name: str, workers: int) -> list[str]:
        folders = ["--run-dir", str(tmp_path / name), "--out-dir", str(tmp_path / f"{name}-out")]
        return ["arena", str(file), *folders, "--workers", str(workers)]

    assert command(arguments("whole", 0), log) == 0, log.read_text()[-3000:]
    expected = came_to(tmp_path / "whole", tmp_path / "whole-out")
    killed = tmp_path / "killed"

    def grown(more: int) -> Callable[[], bool]:
        before = recorded(killed)
        return lambda: recorded(killed) >= before + more

    draw, codes = random.Random("arena"), []
    for _ in range(KILLS):
        more = draw.randint(1, EVALUATIONS)
        codes.append(command(arguments("killed", 2), log, until=grown(more)))
        assert codes[-1] in {-signal.SIGKILL, 0}, log.read_text()[-3000:]
    assert -signal.SIGKILL in codes
    assert command(arguments("killed", 2), log) == 0, log.read_text()[-3000:]
    assert came_to(killed, tmp_path / "killed-out") == expected
