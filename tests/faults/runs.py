"""What a run came to, to hold one that was disturbed against one that was not."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from amc.task import Task, load_task
from tests.conftest import SMALL
from tests.faults.driver import Trial, kill_after

EVALUATIONS = {"netadapt": 30, "uniform": 1, "analytic": 2, "shallow": 1, "deep": 1}
IMAGES = 500


def config_of(agent: str, base: dict[str, Any] = SMALL) -> dict[str, Any]:
    """Return a small search of one agent."""
    options = {"short_term_steps": 2} if agent == "netadapt" else {}
    return {**base, "agents": {agent: options}, "evaluations": EVALUATIONS.get(agent, 16)}


def results(run_dir: Path) -> dict[str, Any]:
    """Return journals, plans and weights, without what may differ between equal runs."""
    found: dict[str, Any] = {}
    for file in sorted(run_dir.glob("*-s*/journal.jsonl")):
        values = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(run_dir))] = [
            {k: v for k, v in one.items() if k != "observed"} for one in values
        ]
    for file in sorted(run_dir.glob("*-s*/**/plan*.json")):
        plan = json.loads(file.read_text())
        plan["costs"].pop("measured")
        found[str(file.relative_to(run_dir))] = plan
    for file in sorted(run_dir.glob("*-s*/**/*.safetensors")):
        found[str(file.relative_to(run_dir))] = file.read_bytes()
    return found


def resnet20() -> Task:
    """Return the zoo's ``resnet20`` with so few images that lives are short."""
    whole = load_task("resnet20")
    few, train = torch.arange(IMAGES), torch.arange(2 * IMAGES)
    assert whole.test is not None
    return Task(whole.network, whole.inputs, whole.train[train], whole.search[few], whole.test[few])


class Reference:
    """An uninterrupted run of one agent, and how long it took."""

    def __init__(self, folder: Path, config: dict[str, Any], measured: bool = True) -> None:
        warm_up = Trial(config, folder / "warm-up", folder / "log", sys.maxsize, measured)
        assert not kill_after(warm_up, None)  # measures the table, too
        target = next((folder / "warm-up").glob("*/target.json"))
        config = {**config, "latency": {**config["latency"], "target": str(target)}}
        self.trial = replace(warm_up, config=config, run_dir=folder / "reference")
        begin = time.perf_counter()
        assert not kill_after(self.trial, None)
        self.seconds = time.perf_counter() - begin
        self.trial = replace(self.trial, again=self.trial.made_again)
        self.results = results(self.trial.run_dir)
        assert any(name.endswith("plan.json") for name in self.results)

    def again(self, folder: Path) -> Trial:
        """Return the same search in another folder."""
        return replace(self.trial, run_dir=folder)

    def equals(self, run_dir: Path) -> bool:
        """Return whether a run came to the same; says in what it did not."""
        found = results(run_dir)
        assert found.keys() == self.results.keys()
        for name, value in found.items():
            assert value == self.results[name], name
        return True
