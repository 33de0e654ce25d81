from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app, journal_lines, journal_reader, journal_view
from amc import journal as amc_journal
from amc.cli import application
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.journal import Journal, read_journal, scan
from amc.journal_lines import LIMITS, as_line, record_as_json
from amc.replay import JournaledEvaluator
from tests.test_journal import FACTS, Counting, journal, request


def filled(tmp_path: Path, count: int = 5) -> Path:
    evaluator = JournaledEvaluator(Counting(), journal(tmp_path))
    for width in range(1, count + 1):
        evaluator.evaluate([request(width)])
    return tmp_path / "journal.jsonl"


def without_observed(evaluations: list[Evaluation]) -> list[str]:
    return [e.key for e in evaluations]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_cut_at_every_byte_of_the_last_three_records_and_opened_three_times(
    tmp_path: Path, step: int
) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    keys = without_observed(read_journal(path)[1])
    ends = [sum(map(len, lines[: i + 1])) for i in range(len(lines))]
    cuts = {
        *range(ends[-4], len(whole) + 1, step),
        *(end + i for end in ends[-3:] for i in (-1, 0)),
    }
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends) - 1  # less the header
        for cycle in range(3):
            opened = Journal(path, FACTS)
            expected = keys[:complete] + keys[:cycle]
            assert without_observed(opened.records) == expected, cut
            assert opened.torn_bytes == (0 if cycle else cut - ends[complete])
            (record,) = Counting().evaluate([request(cycle + 1)])
            opened.append([record])
        assert len(read_journal(path)[1]) == complete + 3


@pytest.mark.parametrize("zeros", [b"\0" * 50, b"\0" * 50 + b"\n", b'{"seq\0\0\0\n'])
def test_zeros_at_the_end_are_a_torn_tail(tmp_path: Path, zeros: bytes) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + zeros)
    assert len(Journal(path, FACTS).records) == 5
    assert path.read_bytes() == whole


def test_every_flipped_byte_is_refused_with_the_offset_of_its_line(tmp_path: Path) -> None:
    path = filled(tmp_path, 2)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for place in range(len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        offset = whole.rfind(b"\n", 0, place) + 1
        expected = (
            rf"corrupt at byte {offset} " if place >= start else "corrupt at byte 0|no header"
        )
        with pytest.raises(InputError, match=expected):
            scan(path)


def test_a_record_taken_out_is_told_by_its_number(tmp_path: Path) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(InputError, match=r"record 1: its sequence is 2, not 1"):
        scan(path)


def test_journals_without_checksums_are_read_and_gone_on_with(tmp_path: Path) -> None:
    path = filled(tmp_path)
    header, *records = map(json.loads, path.read_text().splitlines())
    for value in (header, *records):
        del value["observed"]["checksum"]
    old = [{**header, "schema_version": 1}, *records]
    path.write_text("".join(json.dumps(value) + "\n" for value in old))
    evaluator = JournaledEvaluator(Counting(), Journal(path, {**FACTS, "machine": {}, "code": {}}))
    evaluator.evaluate([request(width) for width in range(1, 7)])
    assert len(read_journal(path)[1]) == 6
    path.write_text(as_line(header) + "".join(json.dumps(value) + "\n" for value in records))
    with pytest.raises(InputError, match=r"record 0: it has no checksum"):
        scan(path)


def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    opened = Journal(path, FACTS)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    records = Counting().evaluate([request(6)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            opened.append(records)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == whole
    opened.append(records)
    assert len(read_journal(path)[1]) == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score", "high"),
        ("score", True),
        ("feasible", 1),
        ("cost", {"macs": 1}),
        ("plan", {"site": {"kept": [1.5]}}),
        ("plan", []),
        ("parent", 3),
        ("sequence", "0"),
        ("stopped_after", 1.5),
    ],
)
def test_records_of_wrong_types_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = filled(tmp_path, 1)
    header, record = path.read_text().splitlines()
    path.write_text(header + "\n" + as_line({**json.loads(record), key: value}))
    with pytest.raises(InputError, match=rf"record 0: .*{key}"):
        scan(path)


def test_the_command_checks_shows_and_tails(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    runner = CliRunner()
    found = json.loads(runner.invoke(application, ["journal", "check", str(run), "--json"]).stdout)
    assert [row["problem"] for row in found["journals"]] == [None] * 4
    shown = runner.invoke(
        application, ["journal", "show", str(run), "--json", "--agent", "random_search"]
    )
    assert len(json.loads(shown.stdout)["evaluations"]) == 8
    tail = runner.invoke(application, ["journal", "tail", str(run), "-n", "2"])
    assert tail.exit_code == 0, tail.output
    assert sum(line.startswith("ddpg-s0") for line in tail.stdout.splitlines()) == 2
    followed = runner.invoke(application, ["journal", "tail", str(run), "-f", "-n", "1", "--json"])
    rows = [json.loads(line) for line in followed.stdout.splitlines()]
    assert [row["search"] for row in rows] == [
        "ddpg-s0",
        "netadapt-s0",
        "uniform-s0",
        "random_search-s0",
    ]
    damaged = run / "ddpg-s0" / "journal.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b'"feasible":true', b'"feasible":false', 1))
    refused = runner.invoke(application, ["journal", "check", str(run)])
    assert refused.exit_code == 2
    assert "corrupt at byte" in refused.output
    missing = runner.invoke(application, ["journal", "show", str(run), "--agent", "ddgp"])
    assert missing.exit_code == 2


def test_following_shows_what_is_added_while_a_search_runs(
    digits_run: Path, tmp_path: Path
) -> None:
    from amc.ownership import owned

    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    path = run / "uniform-s0" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    with owned(run):
        seen = journal_view.follow(run, "uniform")
        path.write_bytes(b"".join(lines[:2]))
        assert next(seen)["sequence"] == 0
    assert list(seen) == []


def test_following_reads_what_was_added_alone(tmp_path: Path) -> None:
    path = filled(tmp_path, 2)
    tail = journal_view.Tail(path)
    assert [number for number, _ in tail.added()] == [0, 1]
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"feasible":true', b'"feasible":none', 1))  # not looked at
    filled_again = Counting().evaluate([request(3)])
    with path.open("ab") as file:
        text = as_line({"sequence": 2, **record_as_json(filled_again[0])}).encode()
        file.write(text[:40])
        file.flush()
        assert tail.added() == [], "a line that is being written"
        file.write(text[40:])
    assert tail.added() == [(2, filled_again[0])]
    assert tail.added() == []
    tail.close()


def test_following_finds_its_way_in_a_file_that_is_another(tmp_path: Path) -> None:
    path = filled(tmp_path, 3)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    tail = journal_view.Tail(path)
    tail.added()
    path.write_bytes(b"".join(lines[:2]))
    assert tail.added() == [], "shorter"
    path.write_bytes(content)
    assert [number for number, _ in tail.added()] == [1, 2]
    path.write_bytes(lines[0] + lines[1].replace(b"evaluation_s", b"evaluation_t") + b"\n")
    with pytest.raises(InputError, match="corrupt"):
        tail.added()
    other = tmp_path / "other"
    other.write_bytes(b"".join(lines[:3]))
    other.replace(path)  # as a search that goes on elsewhere does
    assert [number for number, _ in tail.added()] == [0, 1]
    tail.close()


def test_a_journal_has_no_limit_and_its_lines_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    longest = replace(LIMITS, size=max(map(len, lines)))
    for module in (journal_lines, journal_reader, amc_journal):
        monkeypatch.setattr(module, "LIMITS", longest)
    assert path.stat().st_size > 3 * longest.size
    assert len(scan(path).records) == 5
    opened, (record,) = Journal(path, FACTS), Counting().evaluate([request(6)])
    with pytest.raises(InputError, match=rf"has \d+ bytes, more than the {longest.size} of a"):
        opened.append([replace(record, observed={"a": "b" * longest.size})])
    assert path.read_bytes() == b"".join(lines)
    opened.append([record])
    path.write_bytes(b"".join(lines[:2]) + b" " * longest.size + lines[2])
    expected = rf"corrupt at byte {len(lines[0] + lines[1])} \(record 1: it is larger than"
    with pytest.raises(InputError, match=expected):
        scan(path)


def test_two_owners_of_a_run_are_one_too_many(digits_run: Path, tmp_path: Path) -> None:
    from amc.ownership import is_owned, owned

    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    assert not is_owned(run)
    with owned(run):
        assert is_owned(run)
        with pytest.raises(InputError, match=rf"is in use by process {os.getpid()} on"):
            app.resume(run)
        assert app.compare([run])["rows"]  # who only reads goes on
    assert not is_owned(run)
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"), owned(run):
        pass
    assert not (tmp_path / "outside").exists()


def test_printed_rows_say_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    from amc.cli.journal import _print_row

    row = {
        **{"search": "ddpg-s0", "sequence": 3, "score": 0.5, "reward": 0.25, "macs": 1000},
        **{"params": 10, "predicted_latency_s": 0.001, "cached": True, "feasible": False},
        **{"reason": "not finite", "stopped_after": 40},
    }
    _print_row(row)
    assert "cached  infeasible: not finite  stopped after 40 images" in capsys.readouterr().out
