"""``amc front``: the area below fronts, the dense network's forms, and spaces held side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amc import app, app_bench, finish, fronts
from amc.bench_dense import dense_forms
from amc.cli import application
from amc.config import parse_config
from amc.deploy import deployed
from amc.errors import InputError
from amc.pareto import Point, hypervolume, pareto_front
from amc.pricing import structure_of
from amc.registry import lookup
from amc.reporting import SilentReporter
from amc.run_folder import RunFolder
from amc.task import load_task
from amc.timing import Measured
from search_spaces import SEARCH_SPACES
from tests.conftest import SMALL
from tests.test_network_cost import invented

BATCH = 8


def test_a_front_leaves_out_what_is_beaten() -> None:
    a, b, c, d = Point(1, 0.5), Point(2, 0.7), Point(2, 0.6), Point(3, 0.7)
    assert pareto_front([d, c, b, a], lambda p: p) == [a, b]
    assert pareto_front([], lambda p: p) == []


def test_hypervolume_is_the_area_that_a_random_point_falls_into() -> None:
    rng = np.random.default_rng(0)
    points = [Point(*rng.random(2)) for _ in range(6)]
    worst = Point(0.9, 0.2)
    darts = rng.random((200_000, 2)) * [0.9, 0.8] + [0, 0.2]
    beaten = np.zeros(len(darts), dtype=bool)
    for point in points:
        beaten |= (darts[:, 0] >= point.latency) & (darts[:, 1] <= point.accuracy)
    assert hypervolume(points, worst, 1.0) == pytest.approx(beaten.mean(), abs=0.005)
    assert hypervolume([Point(0.95, 0.9), Point(0.1, 0.1)], worst, 1.0) == 0
    assert hypervolume([Point(0, 1.0)], worst, 1.0) == pytest.approx(1)
    with pytest.raises(ValueError, match="no area"):
        hypervolume(points, Point(1, 1), 1.0)


@pytest.mark.slow
@pytest.mark.long
def test_every_form_of_the_dense_network_computes_the_same() -> None:
    task = load_task("digits")
    inputs = task.search[:6].inputs
    network = deployed(task.network, inputs)
    forms, missing = dense_forms(network, inputs, threads=1)
    assert not missing
    assert list(forms) == ["channels_last", "contiguous", "fused", "onnx_runtime"]
    with torch.inference_mode():
        expected = network(*inputs)
        for name, form in forms.items():
            found = form(*inputs)
            found = torch.from_numpy(found[0]) if name == "onnx_runtime" else found
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return runs of two spaces and two seeds."""
    folder = tmp_path_factory.mktemp("front")
    task, found = load_task("digits"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_measure", lambda *_: {})
        for name in ("channel", "mixed"):
            space = lookup(SEARCH_SPACES, name, "space").of(task.network, task.inputs)
            target = folder / f"{name}.json"
            invented(structure_of(task, space, BATCH)).save(target)
            config = {
                **SMALL,
                "space": name,
                "budget": {"predicted_latency": 0.7},
                "agents": {"random_search": {}},
                "evaluations": 4,
                "seeds": [0, 1],
                "latency": {"target": str(target), "batch_size": BATCH},
                "finetune_steps": 0,
            }
            app.search(parse_config(config), folder / name)
            found.append(folder / name)
    with pytest.raises(InputError, match="have not all been fine-tuned; do so with: amc finetune"):
        app_bench.front(found)
    return found


@pytest.fixture(scope="module")
def runs(searched: list[Path]) -> list[Path]:
    """Return the runs, fine-tuned."""
    for run in searched:
        app.finetune(run, settings={"steps": 10})
    return searched


def timed(patch: pytest.MonkeyPatch) -> None:
    """Let networks take the time that their MACs say, and any table be of this machine."""

    def here(
        networks: Mapping[str, torch.nn.Module], inputs: Any, table: Any, *_: Any
    ) -> dict[str, Measured]:
        seconds = {"channels_last": 2.0, "contiguous": 3.0, "fused": 1.9, "onnx_runtime": 1.5}
        times = {
            name: seconds.get(name) or 1e-4 * sum(p.numel() for p in network.parameters())
            for name, network in networks.items()
        }
        return {n: Measured(t, t, 1.0, 0.01, 30, "wall", False) for n, t in times.items()}

    patch.setattr(fronts, "measure_deployed", here)
    patch.setattr(fronts, "is_here", lambda _: True)
    patch.setattr(fronts, "apart", lambda work, reporter, *args: work(reporter, *args))


@pytest.mark.slow
@pytest.mark.long
def test_spaces_are_compared_by_their_fine_tuned_plans(
    runs: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch)
    result = app_bench.front(runs, out=tmp_path)
    assert json.loads((tmp_path / "front.json").read_text()) == result
    assert (tmp_path / "front.png").stat().st_size > 10_000
    assert result["dense"] == {
        "channels_last": 2.0,
        "contiguous": pytest.approx(3.0),
        "fused": pytest.approx(1.9),
        "onnx_runtime": pytest.approx(1.5),
    }
    assert [row["space"] for row in result["spaces"]] == ["channel", "mixed"]
    rows = result["rows"]
    named = [(row["space"], row["seed"]) for row in rows]
    assert named == [(space, seed) for space in ("channel", "mixed") for seed in (0, 1)]
    for row in rows:
        report = json.loads((Path(row["plan"]).parent / "report.json").read_text())
        by_weights = {one["weights"]: one["test_accuracy"] for one in report["accuracies"]}
        assert row["test_accuracy"] == by_weights["finetuned"]
        assert row["lost"] == by_weights["dense"] - by_weights["finetuned"]
        assert row["speedup"]["same"] == pytest.approx(1.9 / row["measured_latency_s"])
        assert row["speedup"]["onnx_runtime"] == pytest.approx(1.5 / row["measured_latency_s"])
        assert row["least_speedup"] == pytest.approx(row["speedup"])
    assert result["predictions"]["plans"] == 4
    answer = CliRunner().invoke(application, ["front", *map(str, runs)])
    assert answer.exit_code == 0, answer.output
    assert "hypervolume" in answer.output


def test_only_plans_of_one_kind_stand_side_by_side(
    runs: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch)
    subjects = [s for run in runs for s in fronts._subjects(RunFolder.open(run))]
    other = replace(subjects[1], how={**subjects[1].how, "steps": 99})
    with pytest.raises(InputError, match="cannot stand beside .*: steps is 99 and 10"):
        fronts._check_alike([subjects[0], other])
    moving = replace(subjects[1], how={**subjects[1].how, "zeros": "sr_ste"})
    for pair in ([subjects[0], moving], [moving, subjects[0]]):
        with pytest.raises(InputError, match="cannot stand beside .*: zeros is"):
            fronts._check_alike(pair)
    with pytest.raises(InputError, match="no plan between them"):
        fronts._check_alike([])
    monkeypatch.setattr(fronts, "is_here", lambda _: False)
    with pytest.raises(InputError, match="is of another machine or torch"):
        fronts.front(runs, fronts.Settings(), SilentReporter())


def test_the_fastest_plan_that_loses_little_is_named_seed_by_seed() -> None:
    def row(seed: int, speedup: float, lost: float) -> dict[str, Any]:
        speedups = {"same": speedup, "onnx_runtime": speedup / 2}
        return {"space": "mixed", "seed": seed, "speedup": speedups, "lost": lost}

    rows = [row(0, 2.0, 0.0), row(0, 4.0, 0.005), row(0, 5.0, 0.006), row(1, 8.0, 0.02)]
    (space,) = fronts.spaces_of(rows, fronts.Settings())
    assert [its and its["same"] for its in space["fastest"]] == [4.0, None]
    # Of seed 1: from 1/8 to 1 of the latency, from 5 to 2 points lost.
    assert space["hypervolumes"][1] == pytest.approx(7 / 8 * 3 / 5)
    assert space["hypervolume"] == pytest.approx(np.median(space["hypervolumes"]))
