"""A small arena on digits, as a file: what the tests of ``amc arena`` start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from amc.config_sections import LatencyConfig
from amc.pricing import structure_of
from amc.registry import lookup
from amc.task import load_task
from search_spaces import SEARCH_SPACES
from tests.conftest import SMALL
from tests.test_network_cost import invented

EXPERIMENT: dict[str, Any] = {
    "common": {
        **{key: SMALL[key] for key in ("budget", "walks", "calibration_images", "tracking_uri")},
        "evaluations": 4,
        "seeds": [0, 1],
        "search_images": 100,
        "finetune_steps": 0,
    },
    "tasks": {"digits": None, "narrow": {"task": "digits", "budget": {"macs": 0.4}}},
    "entries": {
        "uniform": None,
        "random_search": {},
        "ddpg_published": {"agent": "ddpg", "protocol": "published"},
    },
    "measure": False,
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latency table that took no time to measure."""
    path = tmp_path_factory.mktemp("target") / "digits.json"
    task = load_task("digits")
    space = lookup(SEARCH_SPACES, "channel", "space").of(task.network, task.inputs)
    invented(structure_of(task, space, LatencyConfig().batch_size)).save(path)
    return path


@pytest.fixture
def write(tmp_path: Path, target: Path) -> Callable[..., Path]:
    """Write the experiment's file, with some keys changed, into an own folder."""

    def write(**changes: Any) -> Path:
        raw = {**EXPERIMENT, **changes}
        common = {**raw["common"], "latency": {"target": str(target)}}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**raw, "common": common}, sort_keys=False))
        return path

    return write
