"""``amc finetune``: what it reaches, that it goes on exactly, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from amc import app, assembly, finetune, finetune_variants, plan_scores, planned, worker
from amc.compress import kept_of
from amc.config import parse_config
from amc.data import Data
from amc.errors import InputError
from amc.finetune_settings import parse_settings
from amc.plan import Choice, Plan
from amc.plan_file import read_plan
from amc.prune_stages import removal_orders, stages_of
from amc.recovery import Recovery
from amc.reporting import SilentReporter
from amc.task import LoadedTask, load_task, state_digest
from amc.training import Distillation, Schedule, Trainer, fit
from tests.conftest import SMALL

SHORT = {"steps": 12, "check_every": 4, "learning_rate": 0.05}


@pytest.fixture(scope="module", autouse=True)
def trained_once() -> Iterator[None]:
    """Train the digits' network once for all tests."""
    tasks: dict[str, LoadedTask] = {}

    def load(
        name: str, data: Literal["pack", "full"] = "pack", data_folder: str | None = None
    ) -> LoadedTask:
        key = f"{name} {data} {data_folder}"
        tasks[key] = tasks.get(key) or load_task(name, data, data_folder)
        return tasks[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planned, "load_task", load)
        yield


@pytest.fixture(scope="module")
def plan(digits_run: Path) -> Path:
    return digits_run / "uniform-s0" / "plan.json"


class Killed(Exception):
    """Stands for the end of the process."""


class Killer(SilentReporter):
    """Ends the process when a bar has advanced by so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def task(self, description: str, total: int | None) -> Any:
        return self

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def advance(self, n: int = 1, note: str = "") -> None:
        self._left -= n
        if self._left <= 0:
            raise Killed


def accuracies(report: dict[str, Any], split: str = "search") -> dict[str, float]:
    return {row["weights"]: row[f"{split}_accuracy"] for row in report["accuracies"]}


def test_the_result_recovers_and_is_a_plan_that_gives_it_back(plan: Path, tmp_path: Path) -> None:
    report = app.finetune(plan, tmp_path / "out", {**SHORT, "steps": 60, "check_every": 30})
    reached = accuracies(report)
    assert list(reached) == [
        *("dense", "compressed", "batch_norm"),
        *("least_squares", "least_squares+batch_norm", "finetuned"),
    ]
    assert reached["compressed"] < reached["least_squares"]
    assert reached["least_squares+batch_norm"] < reached["finetuned"]
    assert reached["finetuned"] == report["checks"][-1]["search_accuracy"]
    assert [check["step"] for check in report["checks"]] == [0, 30, 60]
    assert report["checks"][0]["search_accuracy"] == reached["least_squares+batch_norm"]
    evaluated = app.evaluate_plan(Path(report["plan"]))
    assert evaluated["reproduced"]
    assert evaluated["test_accuracy"] == accuracies(report, "test")["finetuned"]
    app.apply(Path(report["plan"]), tmp_path / "applied.safetensors")
    applied = load_file(tmp_path / "applied.safetensors")
    assert state_digest(applied) == read_plan(Path(report["plan"])).weights.sha256  # type: ignore[union-attr]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("plan.json", "report.json", "target.json", "test_correct.safetensors"),
        "weights.safetensors",
    ]
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written == {key: report[key] for key in written}


def test_a_plan_with_weights_is_trained_on_from_them(plan: Path, tmp_path: Path) -> None:
    first = app.finetune(plan, tmp_path / "first", SHORT)
    second = app.finetune(Path(first["plan"]), tmp_path / "second", {**SHORT, "steps": 1})
    assert second["recovery"] == "plan"
    assert accuracies(second)["plan"] == accuracies(first)["finetuned"]
    assert second["checks"][0]["search_accuracy"] == accuracies(first)["finetuned"]


EVERYTHING = {
    **SHORT,
    "steps": 24,
    "stages": "[0.4, 1]",
    "patience": 2,
    "distill": 0.5,
    "l1": 1e-5,
}


@pytest.mark.parametrize("augment", [False, True])
def test_an_interrupted_fine_tuning_ends_with_the_same_bytes(
    plan: Path, tmp_path: Path, augment: bool
) -> None:
    settings = {**EVERYTHING, "augment": augment}
    whole = app.finetune(plan, tmp_path / "whole", settings)
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        app.finetune(plan, out, settings, reporter=Killer(7))
    for steps in (9, 12, 15):  # within the first stage, at its end, after it
        torch.manual_seed(steps)  # whatever another process draws from
        with pytest.raises(Killed):
            app.finetune(plan, out, resume=True, reporter=Killer(steps))
    resumed = app.finetune(plan, out, resume=True)
    assert resumed["observed"]["resumed"] >= 2
    for name in ("weights.safetensors", "plan.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for key in ("checks", "stages", "accuracies", "identity", "notes"):
        assert resumed[key] == whole[key]
    assert app.finetune(plan, out, resume=True) == resumed  # it has ended: nothing is done


def test_patience_ends_a_stage_and_keeps_its_best_weights(plan: Path, tmp_path: Path) -> None:
    harmful = {"steps": 40, "check_every": 2, "learning_rate": 3.0, "patience": 2}
    report = app.finetune(plan, tmp_path / "out", harmful)
    scores = [check["search_accuracy"] for check in report["checks"]]
    (stage,) = report["stages"]
    assert stage["stopped_early"]
    assert stage["steps"] == report["checks"][-1]["step"] < 40
    best = max(range(len(scores)), key=scores.__getitem__)
    assert len(scores) == best + 3  # the best one, and two that are no better
    assert stage["kept_step"] == report["checks"][best]["step"]
    assert accuracies(report)["finetuned"] == scores[best] > scores[-1]


class Steps(SilentReporter):
    """Notes which bars were begun, among whatever else is noted."""

    def __init__(self, noted: list[Any]) -> None:
        self.noted = noted

    def task(self, description: str, total: int | None) -> Any:
        self.noted.append(description)
        return super().task(description, total)


def test_the_test_split_is_looked_at_only_after_training(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Any] = []

    def score(network: nn.Module, data: Data, function: Any) -> float:
        noted.append(len(data))
        return 0.5

    monkeypatch.setattr(plan_scores, "score", score)
    report = app.finetune(plan, tmp_path / "out", SHORT, reporter=Steps(noted))
    assert report["test_images"] not in {report["search_images"], 0}
    end = noted.index("testing")
    assert noted[:end] == ["fine-tuning", *[report["search_images"]] * 4]
    assert set(noted[end + 1 :]) == {report["search_images"], report["test_images"]}


def changed(plan: Path, folder: Path, **evaluation: Any) -> Path:
    """Return a copy of a plan without weights, with another ``evaluation`` section."""
    facts = json.loads(plan.read_text())
    assert facts["weights"] is None
    facts["finetuned"] = None
    facts["evaluation"] |= evaluation
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(facts))
    return folder / "plan.json"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("fold", [True, False])
def test_what_is_fine_tuned_is_scored_as_its_plan_says(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: bool
) -> None:
    source = changed(plan, tmp_path / "source", fold_batch_norm=fold, fast_scoring=False)
    normalised: set[bool] = set()
    score = worker.score

    def watched(network: nn.Module, data: Data, function: Any) -> float:
        normalised.add(any(isinstance(module, nn.BatchNorm2d) for module in network.modules()))
        return score(network, data, function)

    monkeypatch.setattr(plan_scores, "score", watched)
    report = app.finetune(source, tmp_path / "out", SHORT)
    assert app.evaluate_plan(Path(report["plan"]))["reproduced"]
    assert normalised == {not fold}


def test_statistics_come_from_as_many_images_as_the_plan_says(plan: Path, tmp_path: Path) -> None:
    few = changed(plan, tmp_path / "source", batch_norm_images=20)
    task, facts = planned.load_planned_task(read_plan(few), None, None), read_plan(few)
    groups = planned.groups_of(facts, task)
    scores = assembly.channel_importance(task, groups, "magnitude_l1", task.train[:20])
    settings = parse_settings({"recovery": "batch_norm", "steps": 1})
    job = finetune.FinetuneJob(facts, few.parent, task, groups, scores, settings)
    expected = job.compressed(kept_of(facts.plan))
    alone = Recovery("batch_norm", task.network, groups, {}, job.calibration[:20])
    alone.recalibrate(expected)
    row = next(one for name, one in finetune_variants.variants(job, print) if name == "batch_norm")
    tuning = finetune.FineTuning(job, tmp_path, {}, None, SilentReporter())
    start = tuning._start(job.stages()[0], None)
    for network in (row, start):
        assert state_digest(network.state_dict()) == state_digest(expected.state_dict())
    all_images = Recovery("batch_norm", task.network, groups, {}, job.calibration)
    all_images.recalibrate(expected)
    assert state_digest(row.state_dict()) != state_digest(expected.state_dict())


def test_stages_remove_nested_channels_the_least_important_first() -> None:
    plan = Plan({"a": Choice(0.25, (1, 5)), "b": Choice(1.0, (0, 1))})
    importance = {"a": torch.tensor([7.0, 1, 6, 5, 4, 2, 3, 8]), "b": torch.zeros(2)}
    orders = removal_orders(plan, importance)
    assert orders == {"a": (5, 1, 7, 0, 2, 3, 4, 6), "b": (0, 1)}
    levels = parse_settings({"stages": 3}).stages
    assert levels == (1 / 3, 2 / 3, 1.0)
    stages = stages_of(plan, orders, levels, [4, 4, 5])
    assert [stage.kept["a"] for stage in stages] == [(0, 1, 2, 3, 5, 7), (0, 1, 5, 7), (1, 5)]
    assert [stage.kept["b"] for stage in stages] == [(0, 1)] * 3
    assert [stage.steps for stage in stages] == [4, 4, 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps 0: input should be greater than or equal to 1"),
        ({"steps": 3, "epochs": 2}, "steps 3 and epochs 2 exclude each other; leave one out"),
        ({"distill": 1.5}, "distill 1.5: input should be less than or equal to 1"),
        ({"learning_rat": 1}, "learning_rat is not a known key; did you mean 'learning_rate'"),
        ({"stages": 0}, "stages 0 must be from 1 to 100"),
        ({"stages": "[0.5, 0.4, 1]"}, r"stages \[0.5, 0.4, 1.0\] must rise from above 0 to 1"),
        ({"stages": "[0.5"}, "is not readable YAML"),
        ({"stages": 4, "steps": 3}, "steps 3 are fewer than the 4 stages; allow more steps"),
        ({"batch_size": 4096}, "batch_size 4096 is above the 1000 training examples; lower it"),
        ({"criterion": "magnitude"}, "criterion.*magnitude_l1"),
        ({"recovery": "batchnorm"}, "recovery 'batchnorm': input should be 'none'"),
        ({"data": "full"}, "task 'digits' has one data set"),
        ({"learning_rate": 1e30, "steps": 3}, "learning_rate 1e.30 made the .* infinite or NaN"),
    ],
)
def test_bad_settings_are_refused(
    plan: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        app.finetune(plan, tmp_path / "out", given)
    assert not (tmp_path / "out" / "plan.json").exists()


def test_what_is_gone_on_with_must_be_the_same(
    plan: Path, digits_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"has no checkpoint.safetensors.*leave --resume out"):
        app.finetune(plan, out, SHORT, resume=True)
    with pytest.raises(Killed):
        app.finetune(plan, out, SHORT, reporter=Killer(2))
    with pytest.raises(InputError, match=r"is there already; name a new folder, or .* --resume"):
        app.finetune(plan, out, SHORT)
    with pytest.raises(InputError, match=r"l1 0.1 is not the 0.0 that .* was begun with"):
        app.finetune(plan, out, {"l1": 0.1}, resume=True)
    other = digits_run / "random_search-s0" / "plan.json"
    with pytest.raises(InputError, match=r"plan .* has digest .*name the same plan"):
        app.finetune(other, out, resume=True)
    checkpoint = out / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    with pytest.raises(InputError, match=r"cannot be read .*start again in another folder"):
        app.finetune(plan, out, resume=True)


def small() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    return network, Data(torch.randn(50, 1, 8, 8), torch.arange(50) % 3)


@pytest.mark.parametrize(("nesterov", "cosine"), [(True, True), (False, False)])
def test_fit_is_plain_sgd_on_shuffled_batches(nesterov: bool, cosine: bool) -> None:
    schedule = Schedule(5, 20, 0.1, weight_decay=0.01, nesterov=nesterov, cosine=cosine)
    network, data = small()
    losses: list[float] = []
    fit(network, data, schedule, 7, lambda step, loss: losses.append(loss))
    plain, _ = small()
    assert data.labels is not None
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01
    )
    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(50, generator=generator) for _ in range(3)]
    batches = [order[start : start + 20] for order in orders for start in (0, 20)]
    for step, batch in enumerate(batches[:5]):
        if cosine:
            optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * (step / 5)))
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(data.inputs[0][batch]), data.labels[batch])
        loss.backward()
        optimizer.step()
        assert float(loss.detach()) == losses[step]
    assert state_digest(network.state_dict()) == state_digest(plain.state_dict())
    assert not network.training


@pytest.mark.parametrize("augment", [False, True])
def test_distillation_is_a_weighted_sum_of_both_losses(augment: bool) -> None:
    network, data = small()
    teacher, _ = small()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
    teacher.eval()
    distillation = Distillation.of(teacher, data, 0.3, 2.0, augment)
    assert (distillation.outputs is None) == augment
    index = torch.tensor([3, 1, 4])
    inputs = (data.inputs[0][index],)
    outputs: Tensor = network.eval()(*inputs)
    loss = distillation.loss(torch.tensor(5.0), outputs, inputs, index)
    p = torch.softmax(teacher(*inputs) / 2, -1)
    q = torch.softmax(outputs / 2, -1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(loss, 0.7 * 5.0 + 0.3 * 4 * divergence)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_l1_is_the_gradient_of_absolute_weights() -> None:
    weights = []
    for l1 in (0.0, 0.01):
        network, data = small()
        Trainer(network, data, Schedule(1, 50, 0.1, 0.0), 0, l1=l1).step()
        weights.append({name: p.detach() for name, p in network.named_parameters()})
    start = dict(small()[0].named_parameters())
    for name, parameter in start.items():
        # Nesterov: the first step is 1 + 0.9 times the gradient.
        shift = 0.1 * 1.9 * 0.01 * parameter.detach().sign() if parameter.dim() > 1 else 0.0
        torch.testing.assert_close(weights[1][name], weights[0][name] - shift)


DROPOUT = """
import torch
from torch import nn
from amc.data import Data
from amc.task import Task
def task():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 3)
    )
    every = Data(torch.randn(120, 1, 8, 8))
    return Task(network, every.inputs[0][:1], every[:80], every[80:])
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_users_network_that_draws_numbers_without_labels_or_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drawing.py").write_text(DROPOUT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"task": "drawing:task", "agents": {"uniform": {}}, "finetune_steps": 0}
    app.search(parse_config({**SMALL, **own}), tmp_path / "run")
    plan = tmp_path / "run" / "uniform-s0" / "plan.json"
    with pytest.raises(InputError, match=r"names code, .* --task drawing:task"):
        app.finetune(plan, tmp_path / "out", SHORT)
    settings = {**SHORT, "batch_size": 16}
    whole = app.finetune(plan, tmp_path / "whole", settings, task="drawing:task")
    assert set(accuracies(whole, "test").values()) == {None}
    assert whole["next"][0].endswith("--task drawing:task")
    with pytest.raises(Killed):
        app.finetune(plan, tmp_path / "out", settings, task="drawing:task", reporter=Killer(6))
    torch.manual_seed(5)
    resumed = app.finetune(plan, tmp_path / "out", resume=True, task="drawing:task")
    assert resumed["checks"] == whole["checks"]
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]
