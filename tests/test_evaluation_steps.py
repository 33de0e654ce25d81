"""Plans that are fine-tuned for some steps before they are scored, whichever the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from amc import app, finish, planned
from amc.config import parse_config
from amc.journal import read_journal
from amc.plan_file import read_plan
from amc.pricing import structure_of
from amc.task import load_task
from search_spaces.mixed import MixedSpace
from tests.conftest import SMALL
from tests.test_network_cost import invented

BATCH = 8


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    task = load_task("digits")
    space = MixedSpace.of(task.network, task.inputs)
    invented(structure_of(task, space, BATCH)).save(tmp_path / "table.json")
    return {
        **SMALL,
        "space": "mixed",
        "budget": {"macs": 0.3},
        "agents": {"evolution": {}},
        "evaluations": 6,
        "evaluation_steps": 3,
        "latency": {"target": str(tmp_path / "table.json"), "batch_size": BATCH},
        "search_images": 60,
        "finetune_steps": 0,
    }


@pytest.mark.slow
def test_every_plan_is_fine_tuned_and_the_result_has_the_weights_of_its_score(
    config: dict[str, Any], tmp_path: Path
) -> None:
    (row,) = app.search(parse_config(config), tmp_path / "run")["rows"]
    path = Path(row["plan"])
    _, history = read_journal(path.parent / "journal.jsonl")
    assert len(history) == 6
    assert all(evaluation.request.finetune == 3 for evaluation in history)
    assert all(evaluation.weights_sha256 for evaluation in history)
    plan = read_plan(path)
    assert plan.weights is not None
    assert load_file(path.parent / plan.weights.file)
    *_, facts = planned.accuracy(path, None, None)
    assert facts["reproduced"] is True
    straight = {**config, "evaluation_steps": 0}
    app.search(parse_config(straight), tmp_path / "straight")
    _, others = read_journal(tmp_path / "straight/evolution-s0/journal.jsonl")
    assert others[0].request.plan == history[0].request.plan
    assert others[0].score != history[0].score


@pytest.mark.long
@pytest.mark.slow
def test_it_goes_on_where_it_was_left(config: dict[str, Any], tmp_path: Path) -> None:
    app.search(parse_config(config), tmp_path / "run")
    app.resume(tmp_path / "run", 9)
    _, grown = read_journal(tmp_path / "run/evolution-s0/journal.jsonl")
    whole = {**config, "evaluations": 9, "horizon": 6}
    app.search(parse_config(whole), tmp_path / "whole")
    _, at_once = read_journal(tmp_path / "whole/evolution-s0/journal.jsonl")
    assert [e.key for e in grown] == [e.key for e in at_once]
    assert [e.score for e in grown] == [e.score for e in at_once]
    assert [e.weights_sha256 for e in grown] == [e.weights_sha256 for e in at_once]
