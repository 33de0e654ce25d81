"""Blocks that go as a whole: which there are, what they cost, and searches that remove them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc import app, finish, planned
from amc.compress import realised, remove_blocks, removed_blocks
from amc.config import parse_config
from amc.deploy import deployed
from amc.errors import InputError
from amc.latency.trace import trace_ops
from amc.network_cost import NetworkCostModel
from amc.plan_file import read_plan, schema
from amc.pricing import structure_of
from amc.task import LoadedTask, load_task
from search_spaces.depth import DepthSpace
from tests.conftest import SMALL
from tests.test_network_cost import invented


@pytest.fixture(scope="module")
def task() -> LoadedTask:
    return load_task("resnet20")


def test_blocks_are_those_whose_shortcut_is_the_identity(task: LoadedTask) -> None:
    space = DepthSpace.of(task.network, task.inputs)
    names = ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
    assert [site.name for site in space.sites] == names
    assert all(site.widths == (0, 1) for site in space.sites)
    few = DepthSpace.of(task.network, task.inputs, exclude=["layer1"])
    assert [site.name for site in few.sites] == names[3:]
    assert few.excluded["layer1.0"] == "excluded by sites.exclude"
    with pytest.raises(InputError, match="'layer9', which is no layer"):
        DepthSpace.of(task.network, task.inputs, exclude=["layer9"])
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(InputError, match="no block that can be removed"):
        DepthSpace.of(chain, (torch.rand(1, 1, 8, 8),))


def test_costs_are_those_of_the_shorter_network(task: LoadedTask) -> None:
    space = DepthSpace.of(task.network, task.inputs)
    structure = structure_of(task, space, 2)
    table = invented(structure)
    model = NetworkCostModel(structure, table)
    rng = np.random.default_rng(0)
    for widths in [[1] * 7, [0] * 7, *rng.integers(0, 2, (6, 7)).tolist()]:
        plan = space.plan(widths)
        network = realised(task.network, (), plan)
        ops = trace_ops(deployed(network, task.batch(2)), task.batch(2))
        costs = model.costs(np.array([widths]))
        assert costs["latency_s"][0] == pytest.approx(table.network_latency(ops))
        assert costs["macs"][0] == sum(op.macs for op in ops) / 2
        params = sum(p.numel() for p in network.parameters())
        assert costs["params"][0] == params
        assert costs["weight_bytes"][0] == 4 * params
        assert removed_blocks(plan) == [
            site.name for site, width in zip(space.sites, widths, strict=True) if not width
        ]


def test_what_goes_of_a_residual_block_is_what_it_adds(task: LoadedTask) -> None:
    silent = remove_blocks(task.network, [])
    for name in ("conv2", "bn2"):
        for parameter in silent.get_submodule(f"layer2.1.{name}").parameters():
            parameter.data.zero_()
    silent.get_submodule("layer2.1.bn2").running_mean.zero_()  # type: ignore[operator]
    shorter = remove_blocks(task.network, ["layer2.1"])
    inputs = task.search[:8].inputs
    with torch.inference_mode():
        torch.testing.assert_close(shorter(*inputs), silent(*inputs), atol=1e-4, rtol=1e-4)


class Odd(nn.Module):
    """A block that runs twice, and one within another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.twice = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.outer = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.stem(x)))
        return self.head(self.outer(x))  # type: ignore[no-any-return]


def test_blocks_that_run_twice_are_left_alone_and_inner_ones_come_first() -> None:
    space = DepthSpace.of(Odd().eval(), (torch.rand(2, 4),))
    assert [site.name for site in space.sites] == ["outer.0"]


def test_a_plan_cannot_bring_a_block_back(task: LoadedTask) -> None:
    space = DepthSpace.of(task.network, task.inputs)
    parent = space.plan([0, 1, 1, 1, 1, 1, 1])
    with pytest.raises(InputError, match=r"keeps block 'layer1\.0' that its parent removed"):
        space.plan([1] * 7, {}, parent)
    with pytest.raises(InputError, match="width 2 at site 'layer1.0' is not legal"):
        space.plan([2, 1, 1, 1, 1, 1, 1])


@pytest.mark.long
@pytest.mark.slow
def test_every_kind_of_agent_removes_blocks(
    task: LoadedTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    space = DepthSpace.of(task.network, task.inputs)
    target = tmp_path / "table.json"
    invented(structure_of(task, space, 32)).save(target)
    agents: dict[str, Any] = {"ddpg": {}, "random_search": {}, "evolution": {}}
    agents |= {"tpe": {"startup": 2}, "cma_es": {}, "gp": {"startup": 2}}
    agents["netadapt"] = {"evaluations": 40, "short_term_steps": 1}
    config = {
        **SMALL,
        "task": "resnet20",
        "space": "depth",
        "budget": {"macs": 0.7},
        "agents": agents,
        "evaluations": 6,
        "search_images": 60,
        "calibration_images": 60,
        "finetune_steps": 1,
        "latency": {"target": str(target)},
    }
    rows = app.search(parse_config(config), tmp_path / "run")["rows"]
    for row in rows:
        assert row["failure"] is None
        assert row["budget_used"] <= 1
        jsonschema.validate(json.loads(Path(row["plan"]).read_text()), schema())
        plan = read_plan(Path(row["plan"]))
        assert plan.schema_version == 2
        assert removed_blocks(plan.plan)
        *_, facts = planned.accuracy(Path(row["plan"]), None, None)
        assert facts["search_accuracy"] == row["search_accuracy"]
