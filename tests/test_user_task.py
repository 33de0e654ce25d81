"""A user's own network, from a folder of the user's, on Ray workers, through the command."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from amc import app, planned
from amc.config import parse_config
from amc.errors import InputError
from amc.task import load_task

MODULE = '''
import torch
from torch import nn

from amc.data import Data
from amc.task import Task


class TwoViews(nn.Module):
    """Two inputs whose channels are concatenated, then added to a third branch."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.norm, self.mixed = nn.BatchNorm2d(24), nn.Conv2d(24, 24, 3, padding=1)
        self.out = nn.Linear(24 * 16, 4)

    def forward(self, image, depth):
        both = torch.relu(self.norm(torch.cat([self.left(image), self.right(depth)], 1)))
        both = torch.relu(both + self.mixed(both))
        return self.out(nn.functional.max_pool2d(both, 2).flatten(1))


def task():
    torch.manual_seed(0)
    images, depths = torch.randn(240, 3, 8, 8), torch.randn(240, 1, 8, 8)
    every = Data((images, depths))  # no labels: the score is agreement with the dense network
    return Task(TwoViews(), (images[:1], depths[:1]), every[:120], every[120:200], every[200:])
'''
CONFIG = """
task: theirs.views:task
budget: {macs: 0.5}
evaluations: 4
walks: 2
agents: {random_search: {}}
calibration_images: 60
finetune_steps: 5
tracking_uri: "off"
"""


def amc(folder: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "amc", *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "views.py").write_text(MODULE)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.slow
@pytest.mark.long
def test_two_inputs_concatenation_and_two_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray = amc(folder, "search", "c.yaml", "--workers", "2", "--run-dir", "ray")
    monkeypatch.chdir(folder)
    config = app.load_config("c.yaml", workers=0)
    sites = app.inspect(config)["sites"]
    assert {site["name"]: site["channels"] for site in sites} == {"left": 16, "right": 8}
    here = app.search(config, Path("here"))
    plans = []
    for result in (on_ray, here):
        (row,) = result["rows"]
        assert row["metric"] == "agreement"
        assert row["dense"]["search_accuracy"] == 1.0
        assert row["test_images"] == 40
        plan = json.loads(Path(row["plan"]).read_text())
        plan["costs"].pop("measured")
        plans.append(plan)
    assert plans[0] == plans[1]
    path, name = Path(here["rows"][0]["plan"]), "theirs.views:task"
    assert planned.accuracy(path, name, None)[-1]["reproduced"] is True
    with pytest.raises(InputError, match=f"say so with --task {name}"):
        app.apply(path, Path("small.onnx"))
    app.apply(path, Path("small.onnx"), task=name)
    assert Path("small.onnx").stat().st_size > 0


def test_the_readmes_example_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = readme.partition("    # mine.py\n")[2].partition("\n\nthen,")[0]
    (tmp_path / "mine.py").write_text(textwrap.dedent(block))
    monkeypatch.chdir(tmp_path)
    task = load_task("mine:factory")
    config = {"task": "mine:factory", "budget": {"macs": 0.5}, "agents": {"uniform": {}}}
    space = app.make_space(parse_config(config), task)
    assert [site.channels for site in space.sites] == [32]
    assert task.score_name == "agreement"
