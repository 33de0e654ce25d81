"""Evaluations that fail alike, one after the other, end their search, and no other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from agents.random_search import RandomSearchAgent
from amc import app
from amc.cli.answer import answer, require_plans
from amc.cli.tables import show_results
from amc.config import parse_config
from amc.errors import FailedAlike
from amc.evaluation import Evaluation, Request
from amc.evaluators import FailureGuard
from amc.journal import read_journal
from amc.reporting import Reporter
from amc.search_task import SearchTask
from tests.conftest import SMALL
from tests.toy import toy_task

CONFIG: dict[str, Any] = {
    **SMALL,
    "task": "tests.failing:factory",
    "agents": ["random_search"],
    "evaluations": 16,
    "finetune_steps": 0,
}


@pytest.mark.usefixtures("unmeasured")
def test_failures_alike_end_their_search_and_a_mended_one_goes_on(
    fault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", parse_config(CONFIG)
    fault.write_text("always-raise")
    journal = run / "random_search-s0" / "journal.jsonl"
    (row,) = app.search(config, run)["rows"]
    assert row["plan"] is None
    # Four a batch: the second one completes the five, and is on no record.
    assert [e.feasible for e in read_journal(journal)[1]] == [False] * 4
    assert row["evaluations"] == 4
    assert json.loads((run / "summary.json").read_text()) == [row]

    def again(reporter: Reporter) -> Any:
        return app.resume(run, 17, reporter)

    with pytest.raises(typer.Exit) as ended:
        require_plans(answer(again, show_results, as_json=False))
    assert ended.value.exit_code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "8 evaluations in a row failed alike: ValueError: matmul" in said
    assert "".join(f"mend the cause, then go on with: amc resume {run}".split()) in "".join(
        said.split()
    )
    assert "Traceback" not in said
    assert "does not grow" not in said

    fault.write_text("nan")
    result = app.resume(run)
    assert result["rows"][0]["failure"] is None
    records = read_journal(journal)[1]
    assert len(records) == 17
    assert not any(e.feasible for e in records[:4])
    reasons = {e.reason for e in records[4:]}
    assert reasons == {"", "the score is nan, not a finite number"}


def test_a_run_that_failed_from_the_start_can_be_looked_at(fault: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fault.write_text("always-raise")
    (row,) = app.search(parse_config({**CONFIG, "walks": 8}), run)["rows"]
    assert (row["evaluations"], row["dense"]["search_accuracy"]) == (0, None)
    answer = app.compare([run], html=tmp_path / "page.html", curves=tmp_path / "curves.png")
    assert answer["rows"][0]["failure"] == row["failure"]
    assert "failed alike" in (tmp_path / "page.html").read_text()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.slow
def test_the_other_searches_of_the_run_are_finished(
    fault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, broken = tmp_path / "run", [True]
    proposed = RandomSearchAgent.search

    def search(self: RandomSearchAgent, task: SearchTask) -> None:
        fault.write_text("always-raise" if broken[0] else "none")
        try:
            proposed(self, task)
        finally:
            fault.write_text("none")

    monkeypatch.setattr(RandomSearchAgent, "search", search)
    config = parse_config({**CONFIG, "agents": ["random_search", "uniform"], "walks": 8})
    failed, kept = app.search(config, run)["rows"]
    assert failed["failure"].startswith("random_search seed 0: 8 evaluations in a row failed alike")
    assert failed["evaluations"] == 0
    assert failed.keys() == kept.keys()
    assert kept["failure"] is None
    assert kept["dense"]["search_accuracy"] > 0
    assert app.compare([run], html=tmp_path / "page.html")["rows"][0]["plan"] is None
    broken[0] = False
    mended, same = app.resume(run)["rows"]
    assert mended["failure"] is None
    assert mended["evaluations"] == 16
    assert same["search_accuracy"] == kept["search_accuracy"]


class _Answers:
    """An evaluator that gives the answers it was made with, one after the other."""

    def __init__(self, answers: list[Evaluation]) -> None:
        self._answers = answers

    def evaluate(self, requests: list[Request]) -> list[Evaluation]:
        return [self._answers.pop(0) for _ in requests]


@pytest.mark.parametrize(
    ("recorded", "live", "count"),
    [
        ("aaaa", "a", 5),  # those that the journal answers count
        ("aaaa", "A", None),  # cached copies do not
        ("aaaaA", "a", 5),  # nor do they end a row
        ("aaaa.", "aaaa", None),
        ("aaaa", "bbbb", None),
        ("aaaa", "aaa.", None),  # what comes later speaks against one cause
        ("aaaa", ".aaaa", None),
        ("", "aaaabaaaa.aaaaa", 5),
        ("aaaaaaa", ".", None),
    ],
)
def test_only_equal_failures_in_a_row_count(recorded: str, live: str, count: int | None) -> None:
    task = toy_task(sites=3)
    request = Request(task.plan(task.smallest_widths))
    cost = task.cost(task.smallest_widths)

    def evaluations(letters: str) -> list[Evaluation]:
        return [
            Evaluation("", request, 0.0, cost, 0.0, x == ".", x.lower().strip("."), cached=x == "A")
            for x in letters
        ]

    guard = FailureGuard(_Answers(evaluations(live)), evaluations(recorded))  # type: ignore[arg-type]
    if count is None:
        assert len(guard.evaluate([request] * len(live))) == len(live)
    else:
        with pytest.raises(FailedAlike, match=f"^{count} evaluations in a row failed alike: a$"):
            guard.evaluate([request] * len(live))
