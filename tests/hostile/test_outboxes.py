"""Outboxes of strangers: refused by ``amc sync``, left alone by the drain, which says so."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc.cli import application
from amc.delivery import STATE
from amc.drain import Drain, left_in
from amc.drain_process import draining
from amc.outbox_lines import FILE, LONGEST_LINE
from tests.deliveries import Said, record, until
from tests.fake_mlflow import FakeMlflow
from tests.outboxes import tracker_of

pytestmark = pytest.mark.usefixtures("own_mlflow")
HOSTILE = "ddpg-s0"
KNOWN = {"store": "", "entries": 0, "offset": 0, "tail": "", "error": None}


def line(**values: Any) -> bytes:
    return json.dumps({"event": "points", "time_ms": 1, "first_step": 9, **values}).encode() + b"\n"


def start(**values: Any) -> bytes:
    """Return a first line whose ``values`` are not those of a search."""
    own = {"schema_version": 1, "identity": "0" * 32, "formerly": None, "experiment": "digits"}
    own |= {"run_name": "x", "store": None, "params": {}, "tags": {}}
    return line(event="start", **{**own, **values})


def instead(content: bytes, file: str = FILE) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def behind(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes() + content)


def pipe(file: str) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)  # opening it would wait for ever

    return put


def link(file: str, target: str) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return put


def a_folder(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).mkdir()


def delivered(**values: Any) -> Callable[[Path], object]:
    return instead(json.dumps({"schema_version": 1, **KNOWN, **values}).encode(), STATE)


# What is put there, and what a message says beside the name of the file and a remedy.
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (pipe(FILE), "is a link, a pipe"),
    "a folder": (a_folder, "is a link, a pipe"),
    "a link within the run": (link(FILE, "../uniform-s0/" + FILE), "is a link, a pipe"),
    "a link out of it": (link(FILE, "/etc/passwd"), "is a link, a pipe|leads out of"),
    "no JSON": (behind(b"{]\n"), r"corrupt at byte \d+: .* not readable JSON: .*, at byte \d+;"),
    "no object": (behind(b"[1]\n"), r"the line \[1\] is no object"),
    "not finite": (behind(b'{"event": NaN}\n'), "event nan is not a finite number"),
    "too large a number": (behind(line(rows=[{"score": 10**30}])), r"rows\.0\.score 10+ does not"),
    "deep": (behind(line(rows=json.loads("[" * 40 + "]" * 40))), "rows.* is nested too deep"),
    "very deep": (behind(b"[" * 100_000 + b"\n"), "nested too deep"),
    "a long line": (behind(b" " * (LONGEST_LINE + 9)), f"longer than {LONGEST_LINE} bytes"),
    "an unknown event": (behind(line(event="delete")), "event 'delete' is none of start, points"),
    "an event of no kind": (behind(line(event=["x"])), r"event \['x'\] is none of start, points"),
    "no rows": (behind(line()), "rows is missing; add it"),
    "rows of text": (behind(line(rows=[{"score": "1"}])), r"rows\.0\.score '1': input should be"),
    "a metric of no name": (
        behind(line(rows=[{"../x": 1}])),
        r"rows\.0 has a key '\.\./x': string should match",
    ),
    "a step of text": (behind(line(first_step="9", rows=[{}])), "first_step '9': input should be"),
    "no time": (behind(line(time_ms=None, rows=[{}])), "time_ms None: input should be"),
    "an unknown end": (behind(line(event="finish", status="x")), "status 'x': input should be"),
    "a path": (behind(line(event="artifact", path="../x", sha256="0" * 64)), r"path '\.\./x'"),
    "a second start": (behind(start()), "event 'start' must be the first one"),
    "no start": (instead(line(rows=[{}])), "event 'points' must be start, the first one"),
    "an identity that asks": (instead(start(identity="' OR 1 --")), 'identity "\' OR 1 --": '),
    "an experiment elsewhere": (instead(start(experiment="../../x")), r"experiment '\.\./\.\./x'"),
    "another version": (instead(start(schema_version=2)), "schema_version 2: input should be 1"),
    "a tag of MLflow's": (
        instead(start(tags={"mlflow.user": "x"})),
        r"tags has a key 'mlflow\.user': string should match",
    ),
    "parameters of text": (instead(start(params="x")), "params 'x': input should be"),
    "a budget of text": (
        instead(start(params={"budget_limit": "x"})),
        "params.budget_limit gives the budget 'x'",
    ),
    "a record that is a pipe": (pipe(STATE), "is a link, a pipe"),
    "a record that is a link": (link(STATE, "config.yaml"), "is a link, a pipe"),
    "a record of no JSON": (instead(b"{", STATE), "is not readable JSON: .* at byte 1;"),
    "a record of a list": (instead(b"[1]", STATE), r"holds \[1\], which is no object"),
    "a record of text": (delivered(entries="9"), "entries '9': input should be"),
    "a record of less than nothing": (delivered(offset=-1), "offset -1: input should be"),
    "a record that is too large": (instead(b" " * 200_000, STATE), "larger than 100000 bytes"),
}
ONLY_SYNC = ("a budget of text",)  # which is read for what an outbox lacks


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A stranger's run, of which two searches have an outbox."""
    run = tmp_path / "run"
    for name in (HOSTILE, "uniform-s0"):
        shutil.copytree(digits_run / name, run / name)
        record(run / name, 2)
    shutil.copy(run / HOSTILE / "config.yaml", run / "config.yaml")
    return run


def contents(run: Path) -> dict[str, bytes | None]:
    files = (p for p in run.rglob("*") if not p.name.startswith("."))
    return {str(p): p.read_bytes() if p.is_file() else None for p in files}


@pytest.mark.parametrize("name", CASES)
def test_sync_refuses_it_in_words_and_does_nothing(run: Path, fake: FakeMlflow, name: str) -> None:
    put, message = CASES[name]
    put(run / HOSTILE)
    before = contents(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        result = CliRunner().invoke(
            application, ["sync", str(run), "--tracking-uri", fake.url, "--json"]
        )
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    told = " ".join(result.stderr.split())
    assert told.startswith("error: ")
    assert (STATE if "record" in name else FILE) in told
    assert re.search(message, told), told
    assert re.search(r"; (remove|restore|put|once its search has ended, cut) ", told), told
    assert contents(run) == before
    assert fake.calls == []


def facts(file: Path) -> tuple[int, int, int, int]:
    found = os.lstat(file)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("name", [name for name in CASES if name not in ONLY_SYNC])
def test_the_drain_leaves_it_says_so_and_goes_on(run: Path, fake: FakeMlflow, name: str) -> None:
    put, message = CASES[name]
    put(run / HOSTILE)
    file = run / HOSTILE / (STATE if "record" in name else FILE)
    before = facts(file)
    trouble = Drain(run, fake.url).round(lambda *_: None)
    assert trouble is not None
    assert re.search(message, trouble), trouble
    assert file.name in trouble
    assert facts(file) == before
    left, total, error = left_in(run, fake.url)
    assert 0 < left < total
    assert error is not None
    assert file.name in error
    names = {r["tags"].get("agent") for r in fake.runs.values() if r["status"] == "FINISHED"}
    assert names == {"ddpg"}  # as both are called here
    assert fake.points()[-2:] == [(1, 0.1), (2, 0.2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a pipe", "rows of text", "a record that is a pipe"])
def test_the_process_beside_a_run_ends_and_says_so(
    tmp_path: Path, fake: FakeMlflow, name: str
) -> None:
    run, said = tmp_path / "run", Said()
    for folder in (HOSTILE, "uniform-s0"):
        record(run / folder, 2)
    CASES[name][0](run / HOSTILE)
    with draining(run, fake.url, said) as drain:
        until(lambda: fake.points()[-2:] == [(1, 0.1), (2, 0.2)])
    assert drain._process is not None
    assert drain._process.returncode == 1  # by itself
    (message,) = said.messages
    assert re.search(rf"entries wait for MLflow \(.*{CASES[name][1]}.*; .*amc sync {run}", message)


def test_a_search_goes_on_beside_an_outbox_that_is_none(tmp_path: Path) -> None:
    for number, put in enumerate((pipe(FILE), link(FILE, "/etc/passwd"), a_folder)):
        folder, warnings = tmp_path / str(number) / HOSTILE, list[str]()
        folder.mkdir(parents=True)
        (folder / FILE).touch()
        put(folder)
        before = facts(folder / FILE)
        tracker = tracker_of(folder, warnings.append)
        tracker.start({}, {})
        tracker.finish("finished")
        (warning,) = warnings
        assert "is a link, a pipe" in warning
        assert f"amc sync {folder.parent}" in warning
        assert facts(folder / FILE) == before
