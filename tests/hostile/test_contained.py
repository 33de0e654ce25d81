"""Nothing leads out of a run folder, neither for reading nor for writing."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app
from amc.cli import application
from amc.config import parse_config
from amc.contained import check_contained
from amc.drain import LOCK as SYNC_LOCK
from amc.drain import only_one
from amc.errors import InputError
from amc.ownership import LOCK, is_owned, owned
from amc.plan_file import read_plan
from amc.run_folder import RunFolder
from tests.conftest import SMALL
from tests.test_arena_report import FACTS, run_of

ESCAPES = (
    "../x",
    "..",
    "/etc/passwd",
    "..\\x",
    "%2e%2e/x",
    "a\0b",
    "./x",
    "~/x",
    "C:\\x",
    "x/../y",
)


@pytest.fixture
def run(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's run folder, beside a folder of one's own that it would like to reach."""
    shutil.copytree(digits_run, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/secret").write_text("of mine")
    shutil.copytree(digits_run / "uniform-s0", tmp_path / "mine/uniform-s0")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def of_mine(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in (folder / "mine").rglob("*") if p.is_file()}


LINKS = {
    "a file": ("uniform-s0/target.json", "../../mine/secret"),
    "a plan": ("uniform-s0/plan.json", "../../mine/uniform-s0/plan.json"),
    "weights": ("netadapt-s0/weights.safetensors", "/etc/passwd"),
    "a journal": ("uniform-s0/journal.jsonl", "../../mine/uniform-s0/journal.jsonl"),
    "a folder": ("uniform-s0", "../mine/uniform-s0"),
    "a new folder": ("uniform-s0/plan-finetuned", "../../mine"),
    "a dangling link": ("uniform-s0/report.json", "../../mine/new"),
    "a circle": ("uniform-s0/a", "a"),
    "the configuration": ("config.yaml", "../mine/uniform-s0/config.yaml"),
    "the summary": ("summary.json", "../mine/secret"),
}
SLOW = pytest.mark.slow


def linked(run: Path, name: str) -> None:
    entry, target = LINKS[name]
    path = run / entry
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


COMMANDS = (
    ("compare", "run"),
    ("compare", "run", "--html", "page.html"),
    ("export", "run", "--out", "out.json"),
    ("resume", "run"),
    ("finetune", "run"),
    ("front", "run"),
)


@pytest.mark.parametrize(
    "name", [name if name == "a folder" else pytest.param(name, marks=SLOW) for name in LINKS]
)
def test_no_command_follows_links_out_of_a_run(run: Path, name: str) -> None:
    linked(run, name)
    before = of_mine(run.parent)
    for command in COMMANDS:
        result = CliRunner().invoke(application, list(command))
        assert result.exit_code == 2, result.output
        assert "leads out of 'run'" in result.stderr, result.stderr
        assert "of mine" not in result.output
    assert of_mine(run.parent) == before
    assert sorted(p.name for p in run.parent.iterdir()) == ["mine", "run"]


@pytest.mark.parametrize("name", LINKS)
def test_links_out_of_a_run_are_refused(run: Path, name: str) -> None:
    linked(run, name)
    with pytest.raises(InputError, match="leads out of .*; put the file itself there"):
        RunFolder.open(run)


def test_links_within_a_run_and_to_the_run_itself_are_fine(run: Path) -> None:
    (run / "latest").symlink_to("uniform-s0")
    (run.parent / "named").symlink_to(run)
    check_contained(run)
    assert RunFolder.open(run.parent / "named").read_summary()


@pytest.mark.parametrize("file", ["weights.safetensors", "target.json"])
def test_what_lies_beside_a_plan_may_not_lead_away(run: Path, file: str) -> None:
    folder = run / "netadapt-s0"
    (folder / file).unlink()
    (folder / file).symlink_to(run.parent / "mine/secret")
    plan = str(folder / "plan.json")
    commands = [["evaluate", plan], ["finetune", plan, "--steps", "2", "--out", "tuned"]]
    if file == "weights.safetensors":
        commands.append(["apply", plan, "--out", "x.safetensors"])
    for command in commands:
        result = CliRunner().invoke(application, command)
        assert result.exit_code == 2, result.output
        assert "leads out of" in result.stderr
    assert b"of mine" not in b"".join(
        path.read_bytes() for path in run.parent.glob("tuned/*") if path.is_file()
    )


def test_a_fine_tuning_is_not_written_through_a_link(run: Path) -> None:
    (run.parent / "empty").mkdir()
    (run / "uniform-s0/plan-finetuned").symlink_to(run.parent / "empty")
    result = CliRunner().invoke(application, ["finetune", "run/uniform-s0/plan.json"])
    assert result.exit_code == 2
    assert "leads out of" in result.stderr
    assert not list((run.parent / "empty").iterdir())


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_in_a_plan_is_a_path(run: Path, name: str) -> None:
    plan = run / "netadapt-s0/plan.json"
    value = json.loads(plan.read_text())
    value["weights"]["file"] = name
    plan.write_text(json.dumps(value))
    with pytest.raises(InputError, match="weights.file"):
        read_plan(plan)


@pytest.mark.parametrize("name", [*ESCAPES, "uniform/../../x", "", "\x1b[31m"])
def test_no_name_in_a_configuration_is_a_path(name: str) -> None:
    changes: list[dict[str, Any]] = [{"agents": {name: {}}}, {"experiment": name}]
    if name != "..":  # which is no registered task either
        changes.append({"task": name})
    for change in changes:
        with pytest.raises(InputError, match=next(iter(change))):
            parse_config({**SMALL, **change})


@pytest.mark.parametrize("name", ["a/../../../mine/new", "n" * 90])
def test_no_name_in_an_arena_is_a_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amc.plots.DPI", 20)
    facts = {**FACTS, "network": name}
    arena = {
        **{"name": "one", "tasks": ["fast", "slow"], "agents": ["good"], "entries": {}},
        "task_facts": {"fast": facts, "slow": facts},
        "runs": [run_of(task, "good", 0) for task in ("fast", "slow")],
    }
    (tmp_path / "arena.json").write_text(json.dumps(arena))
    (tmp_path / "out/arena_front_a").mkdir(parents=True)  # from which .. would lead
    (tmp_path / "mine").mkdir()
    app.arena(tmp_path / "arena.json", out_dir=tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arena.json", "mine", "out"]
    assert not list((tmp_path / "mine").iterdir())
    (front,) = (p.name for p in (tmp_path / "out").glob("arena_front_*.png"))
    assert re.fullmatch(r"[\w.-]{1,90}", front)


@pytest.mark.parametrize("agent", ["../mine/uniform", "x"])
@pytest.mark.parametrize("command", ["export", "finetune", "front", "compare"])
def test_a_summary_names_searches_of_its_run_alone(run: Path, agent: str, command: str) -> None:
    rows = json.loads((run / "summary.json").read_text())
    rows[0]["agent"] = agent
    (run / "summary.json").write_text(json.dumps(rows))
    more = ["--out", "out.json"] if command == "export" else []
    result = CliRunner().invoke(application, [command, "run", *more])
    assert result.exit_code == 2, result.output
    assert "summary.json" in result.stderr
    assert not (run.parent / "out.json").exists()


def test_a_pipe_is_no_file(run: Path) -> None:
    (run / "summary.json").unlink()
    os.mkfifo(run / "summary.json")  # opening it would wait for ever
    result = CliRunner().invoke(application, ["compare", "run"])
    assert result.exit_code == 2


def test_a_pipe_is_no_lock_that_waits(run: Path) -> None:
    (run / LOCK).unlink(missing_ok=True)
    os.mkfifo(run / LOCK)
    os.mkfifo(run / SYNC_LOCK)
    assert not is_owned(run)
    with owned(run), only_one(run) as mine:
        assert mine
        assert is_owned(run)
