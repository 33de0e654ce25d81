"""Evaluations that fail: infeasible, with a reason and a finite reward; or the end, with its cause.

In process; ``test_ray_workers`` has what only processes of their own can do.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from agents.random_search import RandomSearchAgent
from amc import app
from amc.bench_evaluation import random_plans
from amc.cli.answer import answer, require_plans
from amc.cli.tables import show_results
from amc.config import parse_config
from amc.errors import FailedAlike, InputError
from amc.evaluation import Evaluation, Request
from amc.evaluators import FailureGuard, ScoringEvaluator
from amc.failures import LONGEST, Failure, as_score, failure_of
from amc.journal import read_journal
from amc.reporting import Reporter, SilentReporter
from amc.search_task import SearchTask
from amc.session import Session
from amc.worker import Outcome, Work, Worker
from amc.workers import InProcess, Limits, time_limit
from tests.conftest import SMALL, random_works
from tests.toy import toy_task

CONFIG: dict[str, Any] = {
    **SMALL,
    "task": "tests.failing:factory",
    "agents": ["random_search"],
    "evaluations": 16,
    "finetune_steps": 0,
}
REASONS = {
    "nan": ("not_finite", "the score is nan, not a finite number"),
    "inf": ("not_finite", "the score is inf, not a finite number"),
    "none-score": ("not_finite", "the score is None, not a finite number"),
    "shape": ("not_finite", "the score is a Tensor of shape [3], not a finite number"),
    "raise": ("error", "ValueError: matmul: "),
}


@pytest.fixture
def session(fault: Path) -> Session:
    return app.prepare(parse_config(CONFIG), SilentReporter())[0]


def test_a_broken_score_is_a_failure_of_its_plan_alone(session: Session, fault: Path) -> None:
    pool, batch = InProcess(session.job()), random_works(session, 16)
    sound = pool.run(batch)
    broken = set()
    for kind, (of, reason) in REASONS.items():
        fault.write_text(kind)
        results = pool.run(batch)
        failed = {i for i, result in enumerate(results) if isinstance(result, Failure)}
        for i, result in enumerate(results):
            if isinstance(result, Failure):
                assert result.kind == of
                assert result.reason.startswith(reason)
            else:
                before = sound[i]
                assert isinstance(before, Outcome)
                assert result.score == before.score
        broken.add(frozenset(failed))
    (same,) = broken
    assert 0 < len(same) < len(batch)


def test_what_exceptions_mean() -> None:
    assert as_score(1) == 1
    assert failure_of(KeyError("x")) == Failure("error", "KeyError: 'x'")
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")):
        assert failure_of(error).kind == "out_of_memory"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no {object}", "no <object object at 0x...>"),
        ("{folder}/cache/x.so: missing", "<temporary>/cache/x.so: missing"),
        ("no file '{folder}'", "no file '<temporary>'"),
        ("{folder} or {folder}/y, " + "." * 400, "<temporary> or <temporary>/y, " + "." * 400),
        ("/home/me/x of 0xff in 0x", "/home/me/x of 0xff in 0x"),
    ],
)
def test_reasons_do_not_differ_between_equal_runs(
    message: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, failures = [object(), object()], []
    for number in range(2):
        temporary = tmp_path / str(number)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        shown = message.format(object=kept[number], folder=temporary / f"tmp{number:08}")
        failures.append(failure_of(OSError(shown)))
        assert failures[-1].raised in {"", f"OSError: {shown}"[: LONGEST + len("OSError: ")]}
    assert failures[0] == failures[1]
    assert failures[0].reason == f"OSError: {reason[:LONGEST]}"
    assert (failures[0].raised == "") == (message == reason)


def test_what_was_raised_is_on_record_where_the_reason_says_less(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, here = InProcess(session.job()), object()

    def fails(*_: Any) -> Outcome:
        raise ValueError(here)

    monkeypatch.setattr(Worker, "run", fails)
    (work,) = random_works(session, 1)
    (evaluation,) = ScoringEvaluator(pool, session.pricing()).evaluate([Request(work.plan)])
    assert evaluation.reason == "ValueError: <object object at 0x...>"
    assert evaluation.observed["raised"] == f"ValueError: {here}"


def test_weights_that_fine_tuning_spoilt_are_a_failure(fault: Path) -> None:
    config = parse_config({**CONFIG, "short_term": {"learning_rate": 1e30}})
    session, _ = app.prepare(config, SilentReporter())
    (plan,) = random_plans(session, 1, 0)
    (result,) = InProcess(session.job()).run([Work(plan, None, 3, 0)])
    assert isinstance(result, Failure)
    assert result.kind == "not_finite"


def test_no_memory_is_tried_once_more_in_a_clean_worker(
    session: Session, fault: Path, tmp_path: Path
) -> None:
    pool, (work, *_) = InProcess(session.job()), random_works(session, 1)
    first, heard = pool.worker, list[tuple[str, ...]]()
    fault.write_text(f"memory-once {tmp_path / 'seen'}")
    (result,) = pool.run([work], lambda position, seconds, name, earlier: heard.append(earlier))
    assert isinstance(result, Outcome)
    assert heard == [("out of memory",)]
    assert pool.worker is not first
    fault.write_text("memory")
    (result,) = pool.run([work])
    assert result == Failure("out_of_memory", "out of memory, in a clean worker too")


def test_a_plan_that_takes_too_long_is_a_failure(session: Session, fault: Path) -> None:
    pool = InProcess(session.job(), Limits(timeout_s=1.0))
    fault.write_text("sleep 600")
    results = pool.run(random_works(session, 10))
    failed = [result for result in results if isinstance(result, Failure)]
    assert 0 < len(failed) < len(results)
    assert set(failed) == {Failure("timeout", "no score within 1 s (evaluation_timeout_s)")}


def test_a_time_limit_needs_the_main_thread() -> None:
    errors: list[InputError] = []

    def limited() -> None:
        try:
            with time_limit(1.0):
                time.sleep(0)
        except InputError as error:
            errors.append(error)

    thread = threading.Thread(target=limited)
    thread.start()
    thread.join()
    assert "set workers to 1 or more" in str(errors[0])


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


def test_limits_leave_digests_as_they_are_and_a_penalty_does_not(fault: Path) -> None:
    config = parse_config(CONFIG)
    assert parse_config({**CONFIG, "attempts": 2}).digest == config.digest
    assert parse_config({**CONFIG, "evaluation_timeout_s": 5}).digest == config.digest
    other = parse_config({**CONFIG, "infeasible_reward": -1.0})
    assert other.digest != config.digest
    facts = [app.prepare(one, SilentReporter())[0].facts for one in (config, other)]
    assert facts[1] == {**facts[0], "infeasible_reward": -1.0}
