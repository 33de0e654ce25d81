"""The report of an arena, made from ``arena.json`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from amc import app
from amc.arena_plots import spread_out
from amc.arena_record import Arena, read_arena
from amc.arena_scores import (
    correlations,
    curves_by_evaluations,
    curves_by_seconds,
    equal_time,
    fronts,
    scores_of,
)
from amc.cli import application
from amc.errors import InputError
from tests.test_plots import colours

FACTS = {
    **{"network": "net", "space": "channel", "budget": {"macs": 0.5}, "metric": "accuracy"},
    **{
        "score": "task",
        "recovery": "none",
        "evaluations": 4,
        "search_images": 100,
        "whole_search_images": 400,
    },
    **{"test_images": 300, "finetune_steps": 9, "batch_size": 8, "dense_search_accuracy": 0.9},
    "dense": {"test_accuracy": 0.9, "predicted_latency_s": 0.004},
}
MADE = {"machine": {"cpu": "A"}, "torch": "2", "mixed": ["torch (2 in 20, 3 in 4)"]}
AGENTS = ("good", "bad", "late", "none")


def run_of(task: str, agent: str, seed: int) -> dict[str, Any]:
    """Return an invented search: the good one is better by 0.1, the late one takes 10 s each."""
    top = 0.8 + 0.01 * seed - {"bad": 0.1, "late": 0.05}.get(agent, 0.0)
    each, found = 10.0 if agent == "late" else 1.0, agent != "none"
    accuracy = top if found else None
    return {
        **{"task": task, "agent": agent, "method": "ddpg", "seed": seed, "evaluations": 4},
        "best": [None, top - 0.2, top - 0.1, top] if found else [None] * 4,
        "seconds": [each * n for n in (1, 2, 3, 4)],
        **{"evaluation_s": 3 * each, "agent_s": each, "wall_s": 4 * each, "cached": 1, "shared": 0},
        **{"searched_accuracy": accuracy, "search_accuracy": accuracy, "test_accuracy": accuracy},
        "finetuned_search_accuracy": None,
        "finetuned_test_accuracy": accuracy and accuracy + 0.05,
        **{"macs": 5, "params": 5, "budget_used": 1.0},
        "predicted_latency_s": 0.001 if task == "fast" else 0.002,
        "failure": None if found else "none of 4 evaluations met the budget",
    }


def arena_of() -> dict[str, Any]:
    """Return an invented arena."""
    runs = [run_of(t, a, s) for t in ("fast", "slow") for a in AGENTS for s in range(3)]
    return {
        **{"name": "canned|one", "tasks": ["fast", "slow"], "agents": AGENTS},
        **{"task_facts": {"fast": FACTS, "slow": FACTS}, "entries": {a: {} for a in AGENTS}},
        **{"runs": runs, "missing": ["slow/other-s0"], "provenance": MADE},
    }


@pytest.fixture
def canned(tmp_path: Path) -> Path:
    path = tmp_path / "arena.json"
    path.write_text(json.dumps(arena_of()))
    return path


@pytest.fixture
def arena(canned: Path) -> Arena:
    return read_arena(canned)


@pytest.mark.slow
@pytest.mark.long
def test_the_report_is_made_from_the_file_alone(canned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["arena", str(canned), "--out-dir", str(out), "--json"]
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [row["agent"] for row in answer["ranking"]] == ["good", "late", "bad", "none"]
    assert answer["ranking"][0]["rank"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert answer["ranking"][1]["rank_at_equal_time"]["value"] > 2
    text = (out / "arena.md").read_text()
    assert "| good | 1.00 [1.00, 1.00] | -9.00 [-9." in text
    assert "| bad | +10.00 [+10.00, +10.00] |" in text
    assert "| whole search split | fast | 9 | 1.000 | 1.000 |" in text
    assert "Made with cpu A, torch 2.\n\nNot all searches were made alike: torch (2 in 20" in text
    assert "1 searches are missing, such as slow/other-s0" in text
    pictures = sorted(path.name for path in out.glob("*.png"))
    keys = ("agreement", "costs", "evaluations", "front_net", "improvement", "ranks", "seconds")
    assert pictures == [f"arena_{key}.png" for key in keys]
    for name in pictures:
        assert f"]({name})" in text
        assert len(colours(out / name)) > 10
    again = app.arena(out / "arena.json", out_dir=tmp_path / "again")
    assert again["ranking"][0]["agent"] == "good"
    assert (tmp_path / "again" / "arena.md").read_text() == text


@pytest.mark.slow
@pytest.mark.long
def test_networks_that_are_named_nearly_alike_have_files_of_their_own(
    canned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amc.plots.DPI", 20)
    value = json.loads(canned.read_text())
    for task in ("a", "b"):  # beside fast and slow, a front each
        value["tasks"].append(task)
        value["task_facts"][task] = {**FACTS, "network": "x:y"}
        value["runs"] += [run_of(task, agent, 0) for agent in AGENTS]
    for task in ("fast", "slow"):
        value["task_facts"][task]["network"] = "x/y"
    canned.write_text(json.dumps(value))
    app.arena(canned, out_dir=tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("arena_front*"))
    assert names == ["arena_front_x-y-7.png", "arena_front_x-y.png"]


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("runs.0.test_accuracy", "high", r"runs\.0\.test_accuracy 'high'"),
        ("runs.0.best", [], r"runs\.0\.best \[\]: it has 0 values where evaluations is 4"),
        ("runs.1.seconds", [1.0], r"runs\.1\.seconds \[1.0\]: it has 1 values"),
        ("runs.1.evaluations", 0, r"runs\.1\.evaluations 0"),
        ("runs.1.seed", 0, r"runs\.1 \(fast, good, seed 0\) stands twice"),
        ("runs.2.task", "other", r"runs\.2\.task 'other' is none of tasks \['fast', 'slow'\]"),
        ("runs.2.agent", "other", r"runs\.2\.agent 'other' is none of agents"),
        ("tasks", [], r"tasks \[\]: .*add to it"),
        ("tasks", ["fast", "fast", "slow"], "tasks .*'fast' stands twice"),
        ("tasks", ["fast", "slow", "other"], "task_facts lacks 'other' of tasks; add it"),
        ("task_facts.fast.budget", {}, r"task_facts\.fast\.budget {}: .*add to it"),
        ("task_facts.fast.budget", {"macs": 0.5, "params": 0.5}, r"budget {.*shorten it"),
        ("provenance.machine", ["x"], r"provenance\.machine \['x'\] has no keys"),
        ("provenance.mixed", "x", r"provenance\.mixed 'x' is no list"),
        ("provenance.machine", "x", r"provenance\.machine 'x' has no keys"),
    ],
)
def test_what_is_no_arena_is_refused(
    canned: Path, tmp_path: Path, place: str, value: Any, says: str
) -> None:
    whole = json.loads(canned.read_text())
    *above, last = (int(key) if key.isdigit() else key for key in place.split("."))
    holder = whole
    for key in above:
        holder = holder[key]
    holder[last] = value
    canned.write_text(json.dumps(whole))
    with pytest.raises(InputError, match=says):
        app.arena(canned, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_made_leaves_the_old_one(
    canned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ArithmeticError

    monkeypatch.setattr("amc.arena_report._fronts", fails)
    monkeypatch.setattr("amc.arena_report._draw", lambda *_: {})
    with pytest.raises(ArithmeticError):
        app.arena(canned, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_search_without_a_plan_counts_as_nothing(arena: Arena) -> None:
    assert scores_of(arena, "test_accuracy")["none"] == {"fast": [0.0] * 3, "slow": [0.0] * 3}
    good = scores_of(arena, "test_accuracy", from_dense=True)["good"]["fast"]
    assert good == pytest.approx([-0.1, -0.09, -0.08])


def test_curves_hold_what_each_search_had_by_then(arena: Arena) -> None:
    by_evaluations = {curve.agent: curve for curve in curves_by_evaluations(arena, "fast")}
    good = by_evaluations["good"]
    assert np.isnan(good.mean[0])
    assert good.mean[1:] == pytest.approx([0.61, 0.71, 0.81])
    assert 0.8 <= good.low[-1] < 0.803
    assert 0.817 < good.high[-1] <= 0.82
    assert np.isnan(by_evaluations["none"].mean).all()
    by_seconds = {curve.agent: curve for curve in curves_by_seconds(arena, "fast")}
    late = by_seconds["late"]
    assert (late.at[0], late.at[-1]) == pytest.approx((1.0, 40.0))
    assert np.isnan(late.mean[late.at < 20]).all()
    assert late.mean[-1] == pytest.approx(0.76)
    assert by_seconds["good"].mean[late.at >= 4] == pytest.approx(0.81)


def test_equal_time_is_the_median_agents(arena: Arena) -> None:
    times, bootstrap = equal_time(arena)
    assert times == {"fast": 4.0, "slow": 4.0}
    assert bootstrap is not None
    assert bootstrap.task_mean("late", "fast").value == 0.0
    assert bootstrap.task_mean("good", "fast").value == pytest.approx(0.81)


def test_correlations_and_fronts(arena: Arena) -> None:
    (fast, _) = correlations(arena, "search_accuracy")
    assert (fast.n, fast.spearman, fast.pearson) == pytest.approx((9, 1.0, 1.0))
    found = {front.agent: front for front in fronts(arena)}
    # 0.85 of accuracy at a quarter of the dense latency: nothing above the worst point, at 0.85
    assert found["good"].volumes == pytest.approx((0.0, 0.75 * 0.2, 0.75 * 0.4))
    assert found["none"].volumes == (0.0, 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.long
def test_a_network_of_any_accuracy_has_a_report(canned: Path) -> None:
    whole = json.loads(canned.read_text())
    for facts in whole["task_facts"].values():
        facts["dense"]["test_accuracy"] = 1e18
    canned.write_text(json.dumps(whole))
    assert fronts(read_arena(canned)) == []


def test_names_stay_apart_and_inside() -> None:
    assert spread_out([1.0, 5.0], 1.0, 0.0, 10.0) == [1.0, 5.0]
    assert spread_out([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == [4.0, 5.0, 6.0]
    assert spread_out([9.9, 10.0, 10.0], 1.0, 0.0, 10.0) == [8.0, 9.0, 10.0]
    assert spread_out([0.0, 0.1], 1.0, 0.0, 10.0) == [0.0, 1.0]
