"""``amc bench evaluation``: its parts add up, and the published path comes to the same scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc import app, app_bench, finish, worker
from amc.bench_evaluation import random_plans
from amc.bench_reference import Reference
from amc.compress import compress, kept_of
from amc.config import parse_config
from amc.config_sections import ShortTermConfig
from amc.data import Data
from amc.errors import InputError
from amc.folding import folded, folds_of
from amc.journal import read_journal
from amc.reconstruction.least_squares import LeastSquares
from amc.reporting import SilentReporter
from amc.task import load_task
from amc.worker import Job, Work
from amc.workers import InProcess, outcomes
from search_spaces.channel import ChannelSpace
from tests.conftest import SMALL
from tests.reconstruction_cases import kept_at

# So few images that the published path samples every row of them: what is left to differ is the
# bias of the head, which ours solves for too. Without the site before it, both are the same.
TINY = {
    **SMALL,
    "sites": {"exclude": ["layer3.0.conv2"]},
    "recovery": "least_squares",
    "search_images": 100,
    "calibration_images": 100,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "BATCH", 10)  # looks while racing
        made = app_bench.bench_evaluation([parse_config(TINY)], 8, plans=2, rounds=2, out=out)
    return made, out


def test_an_evaluation_is_the_sum_of_its_parts(rows: tuple[list[dict[str, Any]], Path]) -> None:
    (row,), out = rows
    assert json.loads((out / "evaluation.json").read_text()) == [row]
    wanted = {
        "network",
        "evaluation_s",
        "forward_s",
        "search_evaluation_s",
        "reference_s",
        "preparation_s",
        "agent_s",
        "parts",
    }
    assert wanted <= set(row)
    parts = {"select", "build", "reconstruct", "recalibrate", "score", "overhead"}
    assert set(row["parts"]) == {f"{part}_s" for part in parts}
    assert all(value >= 0 for value in row["parts"].values())
    assert row["search_requests"] == 8
    assert 0 <= row["search_cached"] < 8
    made = row["search_requests"] - row["search_cached"]
    total = row["agent_s"] + made * row["search_evaluation_s"]
    assert total == pytest.approx(row["search_s"])
    assert 1 <= row["search_stopped"] < made
    assert 0 < row["search_image_share"] <= made / 8
    request_s = row["search_s"] / row["search_requests"]
    assert row["reference_over_search_evaluation"] == pytest.approx(row["reference_s"] / request_s)
    assert row["reference_over_search_work"] > row["reference_over_search_evaluation"]


def test_shortcuts_leave_the_scores_as_they_are(rows: tuple[list[dict[str, Any]], Path]) -> None:
    (row,), _ = rows
    one_image = 0.01 + 1e-9
    assert row["largest_shortcut_score_difference"] <= one_image
    assert row["largest_eager_score_difference"] <= one_image
    assert row["largest_score_difference"] <= one_image


@pytest.mark.slow
def test_the_search_is_the_configurations_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    ddpg = {"protocol": "published", "warmup_episodes": 2, "evaluations": 5, "horizon": 7}
    config = parse_config({**TINY, "walks": 1, "agents": {"uniform": {}, "ddpg": ddpg}})
    alone = {"agents": {"ddpg": {"protocol": "published", "warmup_episodes": 2}}, "horizon": 6}
    values = {**TINY, "walks": 1, "evaluations": 6, "finetune_steps": 0, "racing": True, **alone}
    app.search(parse_config(values), tmp_path / "run")
    expected = [e.key for e in read_journal(tmp_path / "run/ddpg-s0/journal.jsonl")[1]]
    monkeypatch.setattr(
        "amc.bench_evaluation.evaluation",
        lambda session, search, settings, reporter: {"keys": [e.key for e in search().history]},
    )
    (row,) = app_bench.bench_evaluation([config], 6)
    assert row["keys"] == expected
    assert (row["protocol"], row["walks"]) == ("published", 1)
    assert row["agent_options"] == {"protocol": "published", "warmup_episodes": 2}
    (row,) = app_bench.bench_evaluation([parse_config(TINY)], 6)
    assert (row["protocol"], row["walks"]) == ("adapted", 4)


def test_random_plans_just_meet_the_budget() -> None:
    session, _ = app.prepare(parse_config(TINY), SilentReporter())
    plans = random_plans(session, 4, seed=1)
    assert len({plan.digest for plan in plans}) > 1
    for plan in plans:
        widths = [len(choice.kept) for choice in plan.choices.values()]
        used = session.unevaluated_task("uniform").cost(widths).macs / session.budget.limit
        assert 0.7 < used <= 1


@pytest.mark.parametrize("option", ["evaluations", "plans", "rounds"])
def test_numbers_below_one_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"{option} must be at least 1, but got 0"):
        app_bench.bench_evaluation([parse_config(TINY)], **{option: 0})  # type: ignore[arg-type]


class Chain(nn.Module):
    """3x3, strided, 1x1 and linear layers; those that read pruned channels have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False)
        self.third, self.head = nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.third(torch.relu(self.second(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_on_all_rows_the_published_path_is_least_squares() -> None:
    torch.manual_seed(0)
    network, data = Chain().eval(), Data(torch.randn(40, 2, 6, 6))
    space = ChannelSpace.of(network, (data.inputs[0][:2],), round_to=1)
    kept = kept_at(space, 0.6)
    ours = compress(network, space.groups, kept)
    LeastSquares(network, space.groups, space.orders, data).apply(ours, kept)
    with torch.no_grad():
        expected, dense = ours(*data.inputs), network(*data.inputs)
    seen: list[Tensor] = []

    def collect(outputs: Tensor, _: Tensor) -> float:
        seen.append(outputs)
        return 0.0

    reference = Reference(network, space.groups, data)
    reference.evaluate(kept, data.with_labels(torch.zeros(len(data))), collect)
    torch.testing.assert_close(torch.cat(seen), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(dense, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.long
def test_scores_of_the_shipped_mobilenet_agree_with_the_published_path() -> None:
    """Both solve least squares on the dense network's inputs, so they differ by the rows alone.

    Ours counts every position, the published path 30 random ones an image: all of the narrow
    layers', 15% and 61% of the wide ones' (14 x 14 and 7 x 7). It keeps the bias of the head.
    """
    task = load_task("mobilenet")
    space = ChannelSpace.of(task.network, task.inputs)
    calibration, search = task.train[:1000], task.search
    assert len(search) == 3000
    fixed = Job(
        network=task.network,
        groups=space.groups,
        calibration=calibration,
        train=task.train,
        search=search,
        score=task.score,
        recovery="least_squares",
        short_term=ShortTermConfig().build(),
        orders=space.orders,
    )
    pool, reference = InProcess(fixed), Reference(task.network, space.groups, calibration)
    generator = np.random.default_rng(0)
    scores = set()
    for _ in range(4):
        ratios = generator.uniform(0.5, 0.9, len(space.sites))
        widths = [s.nearest(r * s.channels) for s, r in zip(space.sites, ratios, strict=True)]
        plan = space.plan(widths)
        (ours,) = outcomes(pool.run([Work(plan, None, None, 0)]))
        theirs = reference.evaluate(kept_of(plan), search.channels_last(), task.score)
        assert ours.score == pytest.approx(theirs.score, abs=0.003)
        scores.add(ours.score)
    assert len(scores) == 4


@pytest.mark.parametrize("name", ["resnet20", "mobilenet"])
def test_folding_leaves_outputs_alone(name: str) -> None:
    task = load_task(name)
    images = task.search[:50].channels_last()
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    folds = folds_of(task.network, images.inputs)
    small = folded(task.network, folds)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    with torch.no_grad():
        expected = task.network(*images.inputs)
        torch.testing.assert_close(small(*images.inputs), expected, rtol=1e-3, atol=1e-3)
    after = task.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


class Reused(nn.Module):
    """A BatchNorm that two layers share cannot fold into either."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.norm, self.out = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        both = self.norm(self.left(x)) + self.norm(self.right(x))
        return self.out(both.mean((2, 3)))  # type: ignore[no-any-return]


class Branching(Reused):
    """Its way depends on its inputs, so it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("kind", [Reused, Branching])
def test_what_cannot_fold_stays(kind: type[nn.Module]) -> None:
    network = kind().eval()
    assert list(folds_of(network, (torch.randn(2, 2, 3, 3),))) == []
