"""What an arena keeps of its searches: taken where it fits their journals, otherwise made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc import app, app_arena
from amc.arena import Bout
from amc.arena_kept import mixed
from amc.arena_record import Kept
from amc.arena_run import Trouble
from tests.arenas import EXPERIMENT, target, write
from tests.test_arena import undrawn
from tests.test_arena_report import FACTS, run_of

__all__ = ["target", "undrawn", "write"]  # fixtures


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_search_whose_file_does_not_fit_is_made_again_from_its_journal(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"random_search": {"seeds": [0]}, "uniform": {"seeds": [0]}}
    file = write(entries=entries, tasks={"digits": None})
    make, made = app_arena.make_bout, [""]

    def noted(bout: Bout) -> Trouble | None:
        made.append(bout.name)
        return make(bout)

    monkeypatch.setattr(app_arena, "make_bout", noted)
    monkeypatch.setattr(app_arena, "write_report", lambda arena, _: {"arena": arena})

    def again() -> Any:
        made.clear()
        return app.arena(file, tmp_path / "run", None, 0, tmp_path / "out")["arena"]

    first = again()
    assert first.provenance["mixed"] == []
    assert first.provenance["machine"]["cpu"]
    folder = tmp_path / "run" / "digits" / "random_search-s0"
    whole = (folder / "arena.json").read_bytes()
    journal = folder / "random_search-s0" / "journal.jsonl"
    of_another = json.loads(whole)
    of_another["made"]["torch"] = "0"
    cut_short = json.loads(whole)
    cut_short["recorded"] -= 1
    for content in (b"{", b"[]", b'{"run": 1}', *map(as_bytes, (of_another, cut_short))):
        (folder / "arena.json").write_bytes(content)
        before = journal.read_bytes()
        run = again().of(agent="random_search")[0]
        assert made == ["digits/random_search-s0"]
        assert run.best == first.of(agent="random_search")[0].best
        assert journal.read_bytes() == before
    again()
    assert made == []


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_search_that_was_made_longer_is_reported_at_its_length(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"random_search": {"seeds": [0]}}
    common = {**EXPERIMENT["common"], "horizon": 4}
    monkeypatch.setattr(app_arena, "write_report", lambda arena, _: {"arena": arena})

    def made() -> Any:
        file = write(entries=entries, tasks={"digits": None}, common=common)
        return app.arena(file, tmp_path / "run", None, 0, tmp_path / "out")["arena"]

    assert made().runs[0].evaluations == 4
    monkeypatch.setattr("amc.finish._measure", lambda *_: {})
    app.resume(tmp_path / "run" / "digits" / "random_search-s0", 6)
    common["evaluations"] = 6
    arena = made()
    assert (arena.runs[0].evaluations, arena.task_facts["digits"].evaluations) == (6, 6)


def test_what_was_not_made_alike_is_told() -> None:
    def kept(task: str, agent: str, **made: Any) -> Kept:
        machine = {"machine": {"cpu": made.pop("cpu", "A")}, "code": {"agent": agent}}
        whole = {"run": run_of(task, agent, 0), "task": FACTS, "made": {**machine, **made}}
        return Kept.model_validate_json(json.dumps(whole))

    same = [kept("x", "a", table_digest="1"), kept("y", "b", table_digest="2")]
    assert mixed([kept("x", "a"), kept("y", "a")]) == []
    assert not [line for line in mixed(same) if "table" in line]
    others = [*same, kept("x", "a", table_digest="3", cpu="B" * 99)]
    lines = mixed(others)
    assert "latency table of x (1 in 1, 3 in 1)" in lines
    assert f"machine.cpu (A in 2, {'B' * 37}... in 1)" in lines
