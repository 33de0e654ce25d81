"""The file of an arena: what it says, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc import app
from amc.arena import bouts_of, read_experiment
from amc.errors import InputError
from tests.arenas import target, write

__all__ = ["target", "write"]  # fixtures


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": {}}, "tasks {}: .*add to it"),
        ({"task": {"digits": None}}, "task is not a known key; did you mean 'tasks'"),
        ({"tasks": {"a/b": None}}, "tasks has a key 'a/b'.*write another one"),
        (
            {"tasks": {"nowhere": {"budget": {"mac": 1}}}},
            "tasks.nowhere, entries.uniform: budget.m",
        ),
        ({"tasks": {"digits": {"workers": 3}}}, "workers has no place here; .*amc arena --workers"),
        ({"entries": {"ddpg": {"seeds": [1, 1]}}}, r"entries.ddpg.seeds \[1, 1\]: it must list"),
        ({"entries": {"a-b": {"agent": "ddpg"}}}, "entries has a key 'a-b'"),
        ({"entries": {"ddpgg": {}}}, "'ddpgg'.*did you mean 'ddpg'"),
        ({"entries": {"ddpg": {"protocl": "published"}}}, "agents.ddpg.protocl is not a known opt"),
        ({"entries": {"ddpg": {"protocol": {"a": float("inf")}}}}, "entries.ddpg"),
        ({"measure": "maybe"}, "measure 'maybe'"),
    ],
)
def test_the_file_is_strict(
    write: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        app.arena(write(**changes), tmp_path / "run", None, 0, tmp_path / "out")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [-1, 1025])
def test_workers_are_counted(write: Callable[..., Path], tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match=f"--workers {workers} .*; choose one of 0 to 1024"):
        app.arena(write(), tmp_path / "run", None, workers, tmp_path / "out")
    assert not (tmp_path / "run").exists()


def test_a_file_without_tasks_or_of_another_one_is_refused(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--tasks 'digit'.*did you mean 'digits'"):
        app.arena(write(), tmp_path / "run", ["digit"], 0, tmp_path / "out")
    missing = tmp_path / "no.yaml"
    with pytest.raises(InputError, match=r"no\.yaml"):
        app.arena(missing, tmp_path / "run")


def test_entries_and_tasks_change_what_is_common(write: Callable[..., Path]) -> None:
    entries = {"a": {"agent": "uniform", "seeds": [7], "evaluations": 2}, "uniform": {}}
    tasks = {"x": {"task": "digits", "seeds": [3], "latency": {"batch_size": 8}}, "digits": {}}
    experiment = read_experiment(write(entries=entries, tasks=tasks))
    bouts = bouts_of(experiment, "tiny", Path("runs"))
    assert [bout.name for bout in bouts] == [
        *("digits/uniform-s0", "digits/uniform-s1"),
        *("x/uniform-s3", "x/a-s7", "digits/a-s7"),
    ]
    third = bouts[3].config
    assert (third.seeds, third.agents) == ((7,), {"uniform": {"evaluations": 2}})
    assert (third.task, third.workers, third.horizon, third.experiment) == ("digits", 0, 4, "tiny")
    assert third.latency.batch_size == 8
    assert third.latency.target.endswith("digits.json")
