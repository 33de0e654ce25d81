"""Every criterion with every granularity through a whole search, or refused with the reason."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from amc import app, finish
from amc.config import parse_config
from amc.criteria import CRITERIA
from amc.errors import InputError
from amc.kernels.patterns import ZEROS, first_violation
from amc.latency import LatencyTable
from amc.plan_file import read_plan
from amc.planned import build
from amc.pricing import structure_of
from amc.registry import lookup
from amc.sparsify import layer_patterns
from amc.task import LoadedTask, load_task
from search_spaces import SEARCH_SPACES
from tests.conftest import SMALL
from tests.test_network_cost import invented

BATCH = 8
LATER = ("magnitude_l2", "taylor", "wanda")  # in `make slow`
# Of each space one entry a granularity: the options under ``sites``, and what they choose.
OF_WEIGHTS = [("nm", p) for p in ("2:4", "1:4")] + [
    ("fine_grained", pattern) for pattern in ZEROS if pattern not in ("2:4", "1:4", "csc")
]
GRANULARITIES: list[tuple[str, str | None]] = [
    ("channel", None),
    *OF_WEIGHTS,
    ("mixed", "2:4"),
    ("mixed", "csr"),
]


@cache
def digits() -> LoadedTask:
    return load_task("digits")


@cache
def table_of(space: str, patterns: tuple[str, ...]) -> LatencyTable:
    task = digits()
    options: dict[str, Any] = {"patterns": patterns} if patterns else {}
    its = lookup(SEARCH_SPACES, space, "space").of(task.network, task.inputs, **options)
    return invented(structure_of(task, its, BATCH))


def test_every_space_and_every_pattern_is_among_the_granularities() -> None:
    spaces = {space for space, _ in GRANULARITIES}
    assert set(SEARCH_SPACES) - spaces == {"depth"}, (
        "blocks are whole: no criterion chooses in them"
    )
    # Columns of the same zeros as csr, in another order in memory.
    assert set(ZEROS) - {pattern for _, pattern in GRANULARITIES} == {"csc"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LATER else []) for n in CRITERIA]
)
@pytest.mark.parametrize(("space", "pattern"), GRANULARITIES)
def test_a_criterion_searches_a_granularity_or_says_why_not(
    space: str, pattern: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    criterion = lookup(CRITERIA, name, "criterion")
    reasons, sites = [], dict[str, Any]()
    if space in ("channel", "mixed"):
        sites["criterion"] = name
        reasons.append(criterion.of_channels)
    if pattern is not None:
        sites |= {"weight_criterion": name, "patterns": [pattern]}
        reasons.append(criterion.of_weights)
    target = tmp_path / "table.json"
    table_of(space, () if pattern is None else (pattern,)).save(target)
    config = parse_config(
        {
            **SMALL,
            "space": space,
            "sites": sites,
            "budget": {"macs": 0.25 if space == "mixed" else 0.6},
            "agents": {"uniform": {}},
            "latency": {"target": str(target), "batch_size": BATCH},
            "search_images": 40,
            "calibration_images": 60,
            "finetune_steps": 0,
        }
    )
    if any(reasons):
        with pytest.raises(InputError, match=f"{name!r} cannot choose (channels|weights): .+;"):
            app.search(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return
    (row,) = app.search(config, tmp_path / "run")["rows"]
    assert row["failure"] is None
    path = Path(row["plan"])
    plan = read_plan(path)
    assert plan.evaluation.weight_criterion == (name if pattern else "magnitude_l1")
    network, layers = build(plan, path.parent, digits()), layer_patterns(plan.plan)
    assert bool(layers) == (pattern is not None)
    for layer, how in layers.items():
        parameter = network.get_submodule(layer).weight
        assert isinstance(parameter, torch.Tensor)
        weight = parameter.detach().contiguous()
        assert first_violation(weight, how.pattern) is None
        assert how.sparsity is not None
        zeros = (weight == 0).flatten(1)
        if how.pattern == "4x1":  # that share of the blocks, the last of which may have fewer rows
            zeros = torch.stack([rows.all(0) for rows in torch.split(zeros, 4)])
        # Small layers have few blocks.
        assert float(zeros.double().mean()) == pytest.approx(how.sparsity, abs=0.08)
