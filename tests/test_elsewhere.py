"""Resuming where replay is not exact: refused by name, or gone on with from what is on record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amc import app, assembly
from amc.code_digest import ROOT, code_digest
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.evaluators import ScoringEvaluator
from amc.journal import read_journal, scan
from amc.machine import machine_facts
from amc.reporting import SilentReporter
from amc.worker import Outcome
from tests.conftest import SMALL

AGENTS = ["ddpg", "netadapt"]


@pytest.fixture
def interrupted(digits_run: Path, tmp_path: Path) -> Path:
    """A run whose journals end in the middle."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    for journal in run.glob("*/journal.jsonl"):
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[: 1 + len(lines) // 2]))
    return run


@pytest.fixture
def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    own = machine_facts()
    monkeypatch.setattr(assembly, "machine_facts", lambda: {**own, "cpu": "another", "isa": ""})


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that is evaluated from now on."""
    asked: list[Request] = []
    evaluate = ScoringEvaluator.evaluate

    def counted(self: ScoringEvaluator, requests: Sequence[Request]) -> list[Evaluation]:
        asked.extend(requests)
        return evaluate(self, requests)

    monkeypatch.setattr(ScoringEvaluator, "evaluate", counted)
    return asked


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("unmeasured", "another_machine")
def test_another_machine_is_refused_or_goes_on_from_what_is_on_record(
    interrupted: Path, executed: list[Request]
) -> None:
    before = {one: scan(interrupted / f"{one}-s0" / "journal.jsonl") for one in AGENTS}
    with pytest.raises(InputError, match=r"machine.cpu was .* and is 'another' now.*elsewhere"):
        app.resume(interrupted)
    assert not executed
    result = app.resume(interrupted, continue_elsewhere=True)
    assert [row["failure"] for row in result["rows"]] == [None] * 4
    live = 0
    for one in AGENTS:
        folder = interrupted / f"{one}-s0"
        header, records = read_journal(folder / "journal.jsonl")
        assert header["continues"] == ["journal-1.jsonl"]
        assert read_journal(folder / "journal-1.jsonl")[1] == before[one].records
        # The numbers come out the same on what is the same machine: so does every request.
        count = len(before[one].records)
        assert [e.key for e in records[:count]] == [e.key for e in before[one].records]
        assert all(e.observed.get("recorded") for e in records[:count] if not e.cached)
        assert not any(e.observed.get("recorded") for e in records[count:])
        live += sum(not e.cached for e in records[count:])
    others = sum(
        not (e.cached or e.observed.get("recorded"))
        for one in ("uniform", "random_search")
        for e in read_journal(interrupted / f"{one}-s0" / "journal.jsonl")[1]
    )
    assert len(executed) == live + others
    executed.clear()
    app.resume(interrupted)  # the same machine as just now: plain replay
    assert not executed


@pytest.mark.usefixtures("unmeasured")
def test_nothing_goes_on_elsewhere_with_another_table(interrupted: Path) -> None:
    for target in interrupted.glob("*/target.json"):
        table = json.loads(target.read_text())
        table["reference_s"] *= 1.5
        target.write_text(json.dumps(table))
    with pytest.raises(InputError, match="table_digest was .* start a new run"):
        app.resume(interrupted, continue_elsewhere=True)
    assert not list(interrupted.glob("*/journal-1.jsonl"))


@pytest.mark.usefixtures("unmeasured")
def test_other_code_is_refused(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "code_digest", lambda *_: "0" * 64)
    with pytest.raises(InputError, match=r"code.agent was .*, code.evaluations was .*elsewhere"):
        app.resume(interrupted)


def test_code_counts_without_comments_and_with_all_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.py"

    def digest_of(text: str) -> str:
        from amc import code_digest as module

        module._source.cache_clear()
        own.write_text(text)
        return code_digest(["amc.plan"], [own])

    plain = digest_of("def f():\n    return 1\n")
    assert plain == digest_of('# why\ndef f():\n    """What."""\n    return  1\n')
    assert plain != digest_of("def f():\n    return 2\n")
    assert code_digest(["agents.ddpg"]) != code_digest(["agents.evolution"])
    assert " " not in assembly._code_of_agent("ddpg")
    assert f", optuna {version('optuna')}, cmaes {version('cmaes')}" in assembly._code_of_agent(
        "cma_es"
    )
    assert code_digest(["stranger"]) == code_digest([])
    copy = tmp_path / "copy"
    for package in ("amc", "agents", "envs", "search_spaces"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("*.so"))
    monkeypatch.setattr("amc.code_digest.ROOT", copy)
    assert code_digest(["agents.netadapt"]) == code_digest(["agents.netadapt"])
    before = code_digest(["agents.netadapt"])
    cost = copy / "amc" / "cost.py"  # imported by what the agent imports
    cost.write_text(cost.read_text() + "\nADDED = 1\n")
    from amc import code_digest as module

    module._source.cache_clear()
    assert code_digest(["agents.netadapt"]) != before


@pytest.mark.usefixtures("unmeasured")
def test_a_replayed_run_says_how_fast_it_was(digits_run: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    shutil.copytree(digits_run, run)

    class Reporter(SilentReporter):
        def message(self, text: str) -> None:
            said.append(text)

    result = app.resume(run, reporter=Reporter())
    rows: dict[str, Any] = {row["agent"]: row for row in result["rows"]}
    assert rows["ddpg"]["replayed"] == SMALL["evaluations"]
    assert rows["ddpg"]["evaluation_s"] == 0
    assert rows["ddpg"]["replay_s"] > 0
    assert any("ddpg seed 0: answered 8 evaluations from the journal" in text for text in said)


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured", "another_machine")
def test_weights_that_another_machine_had_made_may_be_made_again(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(interrupted / "netadapt-s0" / "weights")
    rerun = ScoringEvaluator.rerun

    def otherwise(self: ScoringEvaluator, request: Request) -> Outcome:
        outcome = rerun(self, request)
        assert outcome.state is not None
        name, array = next(iter(outcome.state.items()))
        rounded = np.nextafter(array, np.float32(9))
        return replace(outcome, state={**outcome.state, name: rounded})

    monkeypatch.setattr(ScoringEvaluator, "rerun", otherwise)
    with pytest.raises(InputError, match="elsewhere"):
        app.resume(interrupted)
    result = app.resume(interrupted, continue_elsewhere=True)
    assert [row["failure"] for row in result["rows"]] == [None] * 4
    again = app.resume(interrupted)
    key = "search_accuracy"
    assert [row[key] for row in again["rows"]] == [row[key] for row in result["rows"]]
