"""Paired comparisons: intervals with a known answer, and what a run's fine-tunings say together."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from amc import app
from amc.bootstrap import paired_difference
from amc.cli.accuracy_tables import paired_table, show_comparison, show_finetunings
from amc.correctness import Marking, read_correctness, write_correctness
from amc.errors import InputError
from amc.task import accuracy
from tests.test_finetune import Killed, Killer

SHORT = {"steps": 6, "check_every": 3, "learning_rate": 0.05}


def drawn(seed: int, shape: tuple[int, ...], probability: float) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < probability


def test_one_seed_gives_the_interval_of_a_mean() -> None:
    ours, baseline = drawn(0, (1, 4000), 0.9), drawn(1, (1, 4000), 0.8)
    found = paired_difference(ours, baseline)
    differences = ours[0].astype(float) - baseline[0]
    assert found.mean == pytest.approx(differences.mean(), abs=1e-12)
    half = 1.96 * differences.std() / math.sqrt(4000)
    expected = (differences.mean() - half, differences.mean() + half)
    assert found.images_interval == pytest.approx(expected, abs=6e-4)
    assert found.interval == found.images_interval  # one seed: nothing else to draw


def test_it_is_the_bootstrap_of_scipy() -> None:
    ours, baseline = drawn(0, (1, 300), 0.9), drawn(1, (1, 300), 0.85)
    theirs = stats.bootstrap(
        (ours[0].astype(float), baseline[0].astype(float)),
        lambda x, y, axis: (x - y).mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    found = paired_difference(ours, baseline).images_interval
    assert found == pytest.approx((theirs.low, theirs.high), abs=3.5e-3)  # steps of 1 / 300


def test_pairs_that_always_differ_alike_leave_no_doubt() -> None:
    baseline = drawn(0, (3, 500), 0.5)
    found = paired_difference(baseline, baseline)
    assert (found.mean, found.interval, found.images_interval) == (0.0, (0.0, 0.0), (0.0, 0.0))
    found = paired_difference(np.ones((3, 10), bool), np.zeros((3, 10), bool))
    assert (found.mean, found.interval) == (1.0, (1.0, 1.0))


def test_seeds_count_in_the_one_interval_alone() -> None:
    """Seed s is right on a share of images that it alone has: images say 0, seeds differ."""
    images = 1000
    ours = np.zeros((3, images), bool)
    ours[2] = True  # differences of 0, 0 and 1, the same for every image
    found = paired_difference(ours, np.zeros((3, images), bool))
    assert found.mean == pytest.approx(1 / 3)
    assert found.images_interval == pytest.approx((1 / 3, 1 / 3))
    # All three drawn seeds are the third one in 1 of 27 draws, which is more than 2.5%.
    assert found.interval == pytest.approx((0.0, 1.0))


def test_one_image_is_drawn_for_all_seeds_at_once() -> None:
    """Seeds that differ on the very same images do not make each other surer."""
    row = drawn(0, (1, 2000), 0.1)
    one = paired_difference(row, np.zeros_like(row)).images_interval
    many = np.repeat(row, 3, axis=0)
    assert paired_difference(many, np.zeros_like(many)).images_interval == pytest.approx(
        one, abs=1e-3
    )
    own = drawn(1, (3, 2000), 0.1)
    low, high = paired_difference(own, np.zeros_like(own)).images_interval
    assert high - low < 0.75 * (one[1] - one[0])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(200):
        ours, baseline = drawn(2 * trial, (1, 400), 0.7), drawn(2 * trial + 1, (1, 400), 0.6)
        low, high = paired_difference(ours, baseline).interval
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 200  # 190 expected, 3.1 one deviation


def test_shapes_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="need two equal shapes"):
        paired_difference(np.ones((2, 3), bool), np.ones((2, 4), bool))


def test_marking_counts_what_accuracy_counts(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    marking = Marking(accuracy)
    means = []
    for size in (7, 7, 3):
        outputs = torch.randn(size, 4, generator=generator)
        labels = torch.randint(4, (size,), generator=generator)
        assert marking(outputs, labels) == accuracy(outputs, labels)
        means += [accuracy(outputs, labels)] * size
    correct = marking.correct
    assert correct is not None
    assert correct.mean() == pytest.approx(np.mean(means))
    path = tmp_path / "correct.safetensors"
    write_correctness(path, {"a": correct, "b": ~correct})
    found = read_correctness(path)
    assert found["a"].tolist() == correct.tolist()
    assert found["b"].tolist() == (~correct).tolist()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"correct.safetensors' cannot be read"):
        read_correctness(path)


def test_another_score_leaves_nothing_to_remember() -> None:
    marking = Marking(lambda outputs, labels: 0.25)
    assert marking(torch.zeros(2, 3), torch.zeros(2)) == 0.25
    assert marking.correct is None


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run with two agents, one seed, all of them fine-tuned."""
    path = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(digits_run, path)
    with pytest.raises(Killed):  # within the second plan
        app.finetune(path, settings=SHORT, reporter=Killer(10))
    with pytest.raises(InputError, match=r"ddpg-s0/plan-finetuned' is there already"):
        app.finetune(path, settings=SHORT)
    result = app.finetune(path, resume=True)  # goes on with the settings on record
    for row in result["rows"]:
        report = json.loads((Path(row["plan"]).parent / "plan-finetuned/report.json").read_text())
        assert report["identity"]["settings"]["steps"] == SHORT["steps"]
    assert app.finetune(path, resume=True) == result  # all have ended: nothing is done
    return path


def test_a_run_folder_is_all_of_its_plans(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = app.finetune(run, resume=True)
    summary = json.loads((run / "summary.json").read_text())
    assert [row["agent"] for row in result["rows"]] == [row["agent"] for row in summary]
    for row, before in zip(result["rows"], summary, strict=True):
        assert row["test_accuracy"] == pytest.approx(before["test_accuracy"], abs=0.01)
    assert result["next"] == [f"amc compare {run} --paired uniform"]
    show_finetunings(result)
    shown = capsys.readouterr().out
    assert "netadapt" in shown
    assert result["next"][0] in shown


def test_pairs_agree_with_the_reports(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = app.compare([run], paired="uniform")
    rows = result["paired"]
    agents = ["uniform", "ddpg", "netadapt", "random_search"]
    names = ["searched", "recovered", "finetuned"]
    assert [(r["network"], r["agent"]) for r in rows] == [(n, a) for n in names for a in agents]
    baseline = {row["network"]: row["accuracy"] for row in rows if row["agent"] == "uniform"}
    for row in rows:
        folder = run / f"{row['agent']}-s0" / "plan-finetuned"
        report = json.loads((folder / "report.json").read_text())
        reached = {one["weights"]: one["test_accuracy"] for one in report["accuracies"]}
        own = "plan" if row["agent"] == "netadapt" else "batch_norm"
        keys = {"searched": own, "recovered": "batch_norm", "finetuned": "finetuned"}
        assert row["accuracy"] == pytest.approx(reached[keys[row["network"]]])
        assert row["accuracies"] == [row["accuracy"]]
        assert row["test_images"] == report["test_images"]
        dense = row["from_dense"]
        assert dense["mean"] == pytest.approx(row["accuracy"] - reached["dense"])
        assert dense["interval"][0] <= dense["mean"] <= dense["interval"][1]
        if row["agent"] == "uniform":
            assert row["from_baseline"] is None
        else:
            difference = row["accuracy"] - baseline[row["network"]]
            assert row["from_baseline"]["mean"] == pytest.approx(difference)
    assert json.loads(json.dumps(rows, allow_nan=False))
    show_comparison(result)
    assert "from uniform" in capsys.readouterr().out
    assert paired_table(rows).row_count == len(rows)


def test_seeds_are_the_searches_own(run: Path, tmp_path: Path) -> None:
    plan = json.loads((run / "uniform-s0" / "plan.json").read_text())
    plan["provenance"]["seed"] = 5
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    report = app.finetune(tmp_path / "plan.json", settings=SHORT)
    assert report["identity"]["settings"]["seed"] == 5
    given = app.finetune(tmp_path / "plan.json", tmp_path / "out", {**SHORT, "seed": 2})
    assert given["identity"]["settings"]["seed"] == 2


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "run")
    return folder / "run"


def changed_report(folder: Path, change: Any) -> None:
    path = folder / "plan-finetuned" / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def test_what_cannot_be_compared_is_told(run: Path, digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ddpg-s0/plan.json' has not been fine-tuned; do so with"):
        app.compare([digits_run], paired="uniform")
    with pytest.raises(InputError, match=r"--paired 'nobody' is no agent of .*, which has ddpg"):
        app.compare([run], paired="nobody")
    own = copied(run, tmp_path)
    changed_report(own / "ddpg-s0", lambda r: r["identity"]["settings"].update(steps=7))
    with pytest.raises(InputError, match=r"not fine-tuned alike: steps is 7 and 6; remove the fol"):
        app.compare([own], paired="uniform")
    plan = json.loads((own / "ddpg-s0/plan.json").read_text())
    next(iter(plan["choices"].values()))["kept"].pop()
    (own / "ddpg-s0/plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"is the fine-tuning of another plan than"):
        app.compare([own], paired="uniform")
    shutil.copy(run / "ddpg-s0/plan.json", own / "ddpg-s0/plan.json")
    changed_report(own / "ddpg-s0", lambda r: r["identity"]["settings"].update(steps=6))
    (own / "uniform-s0/plan-finetuned/test_correct.safetensors").unlink()
    with pytest.raises(InputError, match=r"such plans cannot be compared in pairs"):
        app.compare([own], paired="ddpg")


def test_sources_are_checked_before_anything_is_trained(
    run: Path, digits_run: Path, tmp_path: Path
) -> None:
    plan = run / "uniform-s0" / "plan.json"
    with pytest.raises(InputError, match=r"nothing of .* has been begun; leave --resume out to"):
        app.finetune(digits_run, resume=True)
    with pytest.raises(InputError, match="is named twice; name it once"):
        app.finetune([plan, run], settings=SHORT)
    with pytest.raises(InputError, match=r"--out .* is for one plan; leave it out"):
        app.finetune(run, tmp_path / "out", SHORT)
    with pytest.raises(InputError, match="is no run folder"):
        app.finetune([tmp_path, plan], settings=SHORT)
    with pytest.raises(InputError, match="no.json' is not a file"):
        app.finetune([plan, tmp_path / "no.json"], settings=SHORT)
    with pytest.raises(InputError, match=r"steps 5 is not the 6 that .* was begun with"):
        app.finetune(run, settings={"steps": 5}, resume=True)
