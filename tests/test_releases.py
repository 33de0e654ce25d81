"""Run folders of earlier releases, as they were left, are read and gone on with.

Each folder of ``tests/releases`` is of one release. ``before_journal_2`` was left by the last one
whose journals had no checksums: a finished run, and one that was killed in mid-search. Pictures and
weights were taken out.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app
from amc.cli import application
from amc.config import parse_config
from amc.errors import InputError
from amc.journal import read_journal, scan
from amc.plan_file import read_plan
from amc.run_folder import RunFolder

RELEASES = Path(__file__).parent / "releases"


@pytest.fixture(params=sorted(path.name for path in RELEASES.iterdir()))
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what one release left: the runs ``finished`` and ``killed``."""
    copy = tmp_path / str(request.param)
    shutil.copytree(RELEASES / str(request.param), copy)
    return copy


def command(*arguments: str) -> Any:
    done = CliRunner().invoke(application, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def gone_on(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run that was gone on with, elsewhere where this is."""
    try:
        result = app.resume(run)
    except (InputError, RuntimeError):  # this is another processor, or another torch
        result = app.resume(run, continue_elsewhere=True)
    rows: list[dict[str, Any]] = result["rows"]
    return rows


def test_finished_runs_are_read(release: Path, tmp_path: Path) -> None:
    run = str(release / "finished")
    (row,) = command("compare", run)["rows"]
    assert (row["agent"], row["evaluations"], row["search_images"]) == ("ddpg", 12, 400)
    (summary,) = json.loads((release / "finished" / "summary.json").read_text())
    assert {key: row[key] for key in summary if key != "plan"} == {
        key: value for key, value in summary.items() if key != "plan"
    }
    (checked,) = command("journal", "check", run)["journals"]
    assert (checked["schema_version"], checked["records"], checked["problem"]) == (1, 12, None)
    shown = command("journal", "show", run)["evaluations"]
    assert [one["sequence"] for one in shown] == list(range(12))
    assert max(one["score"] for one in shown) == row["search_accuracy"]
    out = tmp_path / "plan.json"
    command("export", run, "--out", str(out))
    assert command("validate", str(out))["valid"] is True
    assert command("validate", f"{run}/config.yaml")["valid"] is True


def test_configurations_keep_their_digest(release: Path) -> None:
    plan = read_plan(release / "finished" / "ddpg-s0" / "plan.json")
    config = RunFolder.open(release / "finished").config
    assert plan.provenance.config_digest == config.digest
    assert parse_config({**config.model_dump(mode="json"), "cache": False}).digest != config.digest


@pytest.mark.usefixtures("unmeasured")
def test_finished_runs_are_gone_on_with(release: Path) -> None:
    (row,) = gone_on(release / "finished")
    assert (row["evaluations"], row["failure"]) == (12, None)


@pytest.mark.usefixtures("unmeasured")
def test_killed_runs_are_gone_on_with(release: Path) -> None:
    run = release / "killed"
    before = scan(run / "netadapt-s0" / "journal.jsonl").records
    assert len(before) == command("journal", "check", str(run))["journals"][0]["records"] == 13
    with pytest.raises(InputError, match="has no summary.json.* go on with: amc resume"):
        app.compare([run])
    (row,) = gone_on(run)
    assert row["failure"] is None
    assert row["evaluations"] > len(before)
    names = [path.name for path in run.glob("*/journal-*.jsonl")]
    old = names[0] if names else "journal.jsonl"
    assert read_journal(run / "netadapt-s0" / old)[1][:13] == before


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.slow
def test_killed_runs_are_gone_on_with_where_numbers_come_out_otherwise(release: Path) -> None:
    """As on another processor, which the journals of some releases do not name."""
    run = release / "killed"
    journal = run / "netadapt-s0" / "journal.jsonl"
    header, *records = map(json.loads, journal.read_text().splitlines())
    for record in records[1:]:  # the search goes on from other proposals than those of the record
        record["score"] = record["reward"] = round(1 - record["score"], 6)
    journal.write_text("".join(json.dumps(line) + "\n" for line in (header, *records)))
    with pytest.raises(InputError, match=rf"amc resume {run} --continue-elsewhere"):
        app.resume(run)
    (row,) = app.resume(run, continue_elsewhere=True)["rows"]
    assert row["failure"] is None
    found = read_journal(journal)
    assert found[0]["continues"] == ["journal-1.jsonl"]
    assert any(one.observed.get("recorded") for one in found[1])
    assert row["evaluations"] == len(found[1])
    assert app.resume(run)["rows"][0]["evaluations"] == row["evaluations"]
