"""Smooth scores: what they are, which tasks they fit, and that results stay in the task's unit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from amc import app, finish, planned
from amc.config import parse_config
from amc.data import Data
from amc.errors import InputError
from amc.reporting import SilentReporter
from amc.scores import SearchScore, check_score, likelihood, overlap
from amc.task import LoadedTask, accuracy, load_task
from amc.worker import Work, Worker
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def digits() -> LoadedTask:
    return load_task("digits")


def test_cross_entropy_is_capped_and_falls_to_zero() -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(50, 10) / 2, torch.randint(0, 10, (50,))
    losses = F.cross_entropy(outputs.double(), labels, reduction="none")
    torch.testing.assert_close(likelihood(outputs, labels), 1.0 - losses / math.log(100.0))
    sure = torch.tensor([[500.0, 0.0], [500.0, 0.0]])
    assert likelihood(sure, torch.tensor([0, 1])).tolist() == [1.0, 0.0]
    others = F.one_hot(labels, 10).float()
    assert torch.equal(likelihood(outputs, others), likelihood(outputs, labels))


def test_agreement_is_shared_probability() -> None:
    ours, dense = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.1, 0.5, 0.4]]).log()
    assert float(overlap(ours, dense)) == pytest.approx(0.4)
    assert torch.equal(overlap(ours, dense), overlap(dense, ours))
    many = torch.randn(1000, 10) * 30
    assert float(overlap(many, many).max()) <= 1.0
    assert float(overlap(many, many).min()) == pytest.approx(1.0)


def test_the_dense_network_runs_once() -> None:
    calls = []

    def dense(inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        return inputs

    search = Data(torch.randn(10, 3), torch.arange(10) % 3)
    score = SearchScore("agreement", search, accuracy, None, dense, 4)
    assert calls == [4, 4, 2]
    assert score(lambda inputs: inputs).score == pytest.approx(1.0)
    assert score(lambda inputs: inputs.roll(1, -1)).score < 0.9
    assert calls == [4, 4, 2]
    assert math.isnan(score(lambda inputs: inputs * math.nan).score)


@pytest.mark.parametrize("name", ["cross_entropy", "agreement"])
def test_a_worker_gives_both_scores(digits: LoadedTask, name: str) -> None:
    config = parse_config({**SMALL, "score": name})
    session, _ = app.prepare(config, SilentReporter())
    plan = session.space.plan([site.channels for site in session.space.sites])
    job = replace(session.job(), recovery="none")
    smooth = Worker(job).run(Work(plan, None, None, 0))
    plain = Worker(replace(job, search_score="task")).run(Work(plan, None, None, 0))
    assert smooth.task_score == plain.score
    assert plain.task_score is None
    images = digits.search.channels_last()
    with torch.inference_mode():
        outputs = digits.network(*images.inputs)
        assert images.labels is not None
        target = outputs if name == "agreement" else images.labels
        values = (overlap if name == "agreement" else likelihood)(outputs, target)
    assert smooth.score == pytest.approx(float(values.mean()), abs=1e-5)


@pytest.mark.slow
def test_results_are_in_the_tasks_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    agents = {"netadapt": {"evaluations": 24}, "random_search": {}}
    result = app.search(
        parse_config({**SMALL, "agents": agents, "score": "agreement"}), tmp_path / "run"
    )
    for row in result["rows"]:
        assert (row["score"], row["metric"]) == ("agreement", "accuracy")
        assert row["search_accuracy"] * 400 == pytest.approx(round(row["search_accuracy"] * 400))
        assert row["best_score"] != row["search_accuracy"]
        *_, now = planned.accuracy(Path(row["plan"]), None, None)
        assert now["reproduced"] is True
    folder = tmp_path / "run" / "netadapt-s0"
    *_, now = planned.accuracy(folder / "family" / "01.json", None, None)
    assert now["reproduced"] is True
    lines = (folder / "journal.jsonl").read_text().splitlines()[1:]
    records = [json.loads(line) for line in lines]
    assert all(record["score"] != record["task_score"] for record in records)


def half(outputs: Tensor, labels: Tensor) -> float:
    return 0.5


def test_what_cannot_be_scored_so_is_refused_with_a_remedy(digits: LoadedTask) -> None:
    own = replace(digits, score=half, score_name="half")
    check_score(own, "task", racing=False)
    check_score(own, "agreement", racing=True)
    with pytest.raises(InputError, match="brings its own, 'half'; set score to 'cross_entropy'"):
        check_score(own, "task", racing=True)
    far = replace(digits, search=Data(digits.search.inputs, torch.full((400,), 10)))
    with pytest.raises(InputError, match="classes from 0 to 9, .* set score to 'agreement'"):
        check_score(far, "cross_entropy", racing=False)
    flat = replace(
        digits, network=torch.nn.Sequential(digits.network, torch.nn.Unflatten(1, (5, 2)))
    )
    with pytest.raises(InputError, match=r"returns \[2, 5, 2\]; set score to 'task'"):
        check_score(flat, "agreement", racing=False)
