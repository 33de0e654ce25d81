"""``amc arena``: its file, searches side by side and gone on with, what they tell each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app, app_arena, arena_run
from amc.arena import Bout, bouts_of, read_experiment
from amc.arena_record import Arena, read_arena, read_bout
from amc.arena_run import Trouble
from amc.cli import application
from amc.errors import InputError, SearchFailed
from amc.evaluation import Evaluation
from amc.journal import read_journal
from amc.ownership import PATIENCE_S, owned
from amc.plan_file import read_plan
from amc.planned import build
from amc.ray_workers import RayWorkers
from amc.run_folder import RunFolder
from amc.task import load_task
from amc.worker import score
from tests.arenas import EXPERIMENT, target, write
from tests.fake_ray import FakeRay, RayActorError
from tests.test_arena_report import arena_of

__all__ = ["target", "write"]  # fixtures


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures of every search, which take most of its time here."""
    for name in ("plots.tradeoff", "plots.keep_ratios", "draw_progress"):
        monkeypatch.setattr(f"amc.results.{name}", lambda *_: None)
    monkeypatch.setattr("amc.finish.draw_progress", lambda *_: None)


def told(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return what an arena's searches came to, without what may differ between equal ones."""
    own = {"seconds", "evaluation_s", "agent_s", "wall_s", "shared"}
    runs = read_arena(path).model_dump(mode="json")["runs"]
    return {
        (run["task"], run["agent"], run["seed"]): {k: v for k, v in run.items() if k not in own}
        for run in runs
    }


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_arena_that_is_broken_off_goes_on_and_comes_out_the_same(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run_dir, out = write(share=False), tmp_path / "run", tmp_path / "out"
    made: list[str] = []
    make = app_arena.make_bout

    def broken_off(bout: Bout) -> Trouble | None:
        made.append(bout.name)
        if len(made) == 6:
            raise KeyboardInterrupt
        return make(bout)

    with monkeypatch.context() as patch:
        patch.setattr(app_arena, "make_bout", broken_off)
        with pytest.raises(KeyboardInterrupt):
            app.arena(file, run_dir, None, 0, out)
    assert made[0] == "digits/uniform-s0"
    assert made[5] == "narrow/ddpg_published-s0"
    done = {path: path.stat().st_mtime_ns for path in run_dir.glob("*/*/arena.json")}
    assert len(done) == 5

    # In the midst of a search: it is gone on with from its journal.
    begun = run_dir / "digits" / "random_search-s0"
    (begun / "arena.json").unlink()
    journal = begun / "random_search-s0" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))

    answer = app.arena(file, run_dir, None, 0, out)
    assert answer["searches"] == 12
    assert answer["failures"] == []
    assert [row["agent"] for row in answer["ranking"]].count("uniform") == 1
    assert all(p.stat().st_mtime_ns == t for p, t in done.items() if p.parent != begun)
    assert len(journal.read_bytes().splitlines()) == len(lines)
    assert "replayed" in json.loads((begun / "summary.json").read_text())[0]

    again = app.arena(file, run_dir, None, 0, tmp_path / "again")
    assert again["ranking"] == answer["ranking"]
    whole = app.arena(write(), tmp_path / "whole", None, 0, tmp_path / "other")
    assert told(out / "arena.json") == told(tmp_path / "other" / "arena.json")
    assert whole["ranking"][0]["rank"] == answer["ranking"][0]["rank"]
    check_whole(read_arena(out / "arena.json"), run_dir)
    check_shared(tmp_path / "whole", run_dir)
    compared = app.compare([run_dir / "digits" / f"{a}-s0" for a in ("uniform", "random_search")])
    assert len(compared["rows"]) == 2


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_what_is_done_is_not_done_again(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tasks={"digits": None}, entries={"uniform": None, "random_search": {"seeds": [0]}})
    make, made = app_arena.make_bout, [""]

    def broken_off(bout: Bout) -> Trouble | None:
        made.append(bout.name)
        if bout.label == "random_search" and made.count(bout.name) == 1:
            raise KeyboardInterrupt
        return make(bout)

    monkeypatch.setattr(app_arena, "make_bout", broken_off)
    monkeypatch.setattr(app_arena, "write_report", lambda arena, _: {"arena": arena})
    with pytest.raises(KeyboardInterrupt):
        app.arena(file, tmp_path / "run", None, 0, tmp_path / "out")
    (only,) = app.arena(file, tmp_path / "run", collect=True)["arena"].runs
    assert (only.agent, only.seed) == ("uniform", 0)
    arena = app.arena(file, tmp_path / "run", None, 0, tmp_path / "out")["arena"]
    names = ["digits/uniform-s0", "digits/random_search-s0", "digits/uniform-s1"]
    assert made[1:] == [*names[:2], *names[1:]]
    check_whole(arena, tmp_path / "run")
    first, second = arena.of("digits", "uniform")
    assert (first.shared, second.shared, second.cached) == (0, 1, 0)
    assert second.best == first.best
    assert second.evaluation_s == first.evaluation_s


def check_whole(arena: Arena, run_dir: Path) -> None:
    """Check what an arena says of its searches against their run folders."""
    assert arena.missing == ()
    for run in arena.runs:
        folder = RunFolder.open(run_dir / run.task / f"{run.agent}-s{run.seed}")
        (row,) = folder.read_summary()
        assert row["search_accuracy"] == run.searched_accuracy == run.best[-1]
        assert row["test_accuracy"] == run.test_accuracy
        assert len(run.best) == len(run.seconds) == run.evaluations == row["evaluations"]
        assert list(run.seconds) == sorted(run.seconds)
        assert run.seconds[-1] == pytest.approx(run.wall_s, abs=1e-5)
        assert run.wall_s == pytest.approx(run.agent_s + run.evaluation_s, abs=1e-5)
    facts = arena.task_facts["digits"]
    assert (facts.search_images, facts.whole_search_images) == (100, 400)
    run = next(run for run in arena.runs if run.agent == "random_search")
    plan = run_dir / run.task / f"{run.agent}-s{run.seed}" / f"{run.method}-s{run.seed}"
    task = load_task("digits")
    network = build(read_plan(plan / "plan.json"), plan, task)
    assert run.search_accuracy == pytest.approx(score(network, task.search, task.score))


def check_shared(shared: Path, alone: Path) -> None:
    """Check that searches which were told answers have the same journals but for ``observed``."""

    def records(run_dir: Path) -> dict[str, list[Evaluation]]:
        found = run_dir.glob("*/*/*/journal.jsonl")
        return {str(p.relative_to(run_dir)): read_journal(p)[1] for p in found}

    def bare(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
        return [{**vars(e), "observed": None} for e in evaluations]

    ours, theirs = records(shared), records(alone)
    assert {name: bare(own) for name, own in ours.items()} == {
        n: bare(o) for n, o in theirs.items()
    }
    second = ours["digits/uniform-s1/uniform-s1/journal.jsonl"][0]
    first = ours["digits/uniform-s0/uniform-s0/journal.jsonl"][0]
    assert second.observed == {**first.observed, "shared": True}
    assert not second.cached
    run = read_bout(shared / "digits" / "uniform-s1" / "arena.json").run
    assert (run.shared, run.cached, run.evaluations) == (1, 0, 1)
    assert run.evaluation_s == pytest.approx(float(first.observed["evaluation_s"]))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_searches_are_spread_over_workers_of_which_one_dies(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(lambda method, count: RayActorError() if (method, count) == ("do", 1) else None)
    monkeypatch.setattr("amc.ray_workers.ray", ray)
    entries = {"uniform": None, "random_search": {"seeds": [1]}}
    file = write(entries=entries, tasks={"digits": None})
    answer = app.arena(file, tmp_path / "run", None, 2, tmp_path / "out")
    assert (answer["searches"], answer["missing"], answer["failures"]) == (3, 0, [])
    assert ray.built == 3
    assert ray.counts["do"] == 4


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no luck"), "RuntimeError: no luck ("),
        (InputError("x" * 400 + "; lower it"), "error: digits/random_search-s0: " + "x" * 400),
        (SearchFailed(f"{'y' * 400}; mend it"), f"{'y' * 400}; mend it; the same command tries ag"),
        (MemoryError(), "out of memory, in a clean worker too; the same command tries again"),
        (SearchFailed("out of memory; free some"), "out of memory, in a clean worker too; the sa"),
    ],
)
def test_a_search_that_fails_is_told_and_tried_again(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
) -> None:
    made: list[str] = []

    def searched(bout: Bout, *_: Any) -> None:
        if bout.label != "uniform" and made.count(bout.name) < 2 * hopeless:
            made.append(bout.name)
            raise error
        made.append(bout.name)
        bout.scores.parent.mkdir(parents=True, exist_ok=True)
        bout.scores.touch()

    report = tmp_path / "canned.json"
    report.write_text(json.dumps(arena_of()))
    hopeless = 1
    monkeypatch.setattr(app_arena, "_searched", searched)
    monkeypatch.setattr(app_arena, "_priced", lambda bouts, _: bouts)
    monkeypatch.setattr(app_arena, "_prepared", lru_cache(lambda _: None))
    monkeypatch.setattr(app_arena, "_deliver", lambda *_: None)
    monkeypatch.setattr(arena_run, "kept_of", lambda bout: bout.scores.is_file() or None)
    monkeypatch.setattr(app_arena, "collected", lambda *_: read_arena(report))
    monkeypatch.setattr(app_arena, "write_report", lambda *_: {"ranking": [], "files": ["-"]})
    file = write(entries={"random_search": {}, "uniform": {}}, tasks={"digits": None})
    arguments = ["arena", str(file), "--run-dir", str(tmp_path / "run"), "--workers", "0"]
    arguments += ["--out-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert ("tries again" in result.stderr) != (type(error) is InputError)
    assert "Traceback" not in result.stderr
    assert made[-1] == "digits/uniform-s1", "the rest is made"
    made.clear()
    hopeless = 0
    result = CliRunner().invoke(application, arguments)
    assert (result.exit_code, "error" in result.stderr) == (0, False)
    assert made == ["digits/random_search-s0", "digits/random_search-s1"]


def test_one_arena_at_a_time_has_a_folder(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        owned(tmp_path / "run"),
        pytest.raises(InputError, match=r"in use by .*go on with: amc arena \S+ --run-dir"),
    ):
        app.arena(write(), tmp_path / "run", None, 0, tmp_path / "out")


def test_a_folder_is_waited_for_while_workers_of_a_killed_driver_have_it(tmp_path: Path) -> None:
    held = ExitStack()
    held.enter_context(owned(tmp_path))
    ends = Timer(2 * PATIENCE_S, held.close)
    ends.start()
    with owned(tmp_path, patience_s=app_arena.ORPHANED_S):
        ends.join()


@pytest.mark.usefixtures("undrawn")
def test_a_run_folder_of_another_configuration_is_not_taken(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    entries = {"uniform": {"seeds": [0]}}
    app.arena(write(entries=entries), tmp_path / "run", ["digits"], 0, tmp_path / "out")
    common = {**EXPERIMENT["common"], "recovery": "none"}
    file = write(entries=entries, common=common)
    with pytest.raises(InputError, match="recovery is 'batch_norm' on record and 'none' here"):
        app.arena(file, tmp_path / "run", ["digits"], 0, tmp_path / "out")
    other = tmp_path / "run" / "digits" / "uniform-s1"
    shutil.copytree(tmp_path / "run" / "digits" / "uniform-s0", other)
    bouts = bouts_of(read_experiment(write(entries={"uniform": {"seeds": [1]}})), "t", tmp_path)
    moved = Bout("digits", "uniform", 1, other, bouts[0].config)
    with pytest.raises(InputError, match="put it back where it was"):
        arena_run.collected(read_experiment(file), "t", [moved])


def test_a_pool_without_a_job_does_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amc.ray_workers.ray", FakeRay())
    pool = RayWorkers(None, 2)
    heard: list[int] = []
    answers = pool.do(divmod, [(7, 2), (9, 4)], lambda position, *_: heard.append(position))
    assert (answers, sorted(heard)) == ([(3, 1), (2, 1)], [0, 1])
    pool.close()
