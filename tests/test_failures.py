"""Evaluations that fail: infeasible, with a reason and a finite reward; or the end, with its cause.

In process; ``test_ray_workers`` has what only processes of their own can do.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from amc import app
from amc.bench_evaluation import random_plans
from amc.config import parse_config
from amc.errors import InputError
from amc.evaluation import Request
from amc.evaluators import ScoringEvaluator
from amc.failures import LONGEST, Failure, as_score, failure_of
from amc.reporting import SilentReporter
from amc.session import Session
from amc.worker import Outcome, Work, Worker
from amc.workers import InProcess, Limits, time_limit
from tests.conftest import SMALL, random_works

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


def test_limits_leave_digests_as_they_are_and_a_penalty_does_not(fault: Path) -> None:
    config = parse_config(CONFIG)
    assert parse_config({**CONFIG, "attempts": 2}).digest == config.digest
    assert parse_config({**CONFIG, "evaluation_timeout_s": 5}).digest == config.digest
    other = parse_config({**CONFIG, "infeasible_reward": -1.0})
    assert other.digest != config.digest
    facts = [app.prepare(one, SilentReporter())[0].facts for one in (config, other)]
    assert facts[1] == {**facts[0], "infeasible_reward": -1.0}
