"""A run whose scores depend on reconstructed weights: its plans name them, and give them back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amc import app
from amc.config import parse_config
from tests.conftest import SMALL


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("recovery", ["least_squares+batch_norm", "progressive"])
def test_plans_name_the_weights_of_their_scores(tmp_path: Path, recovery: str) -> None:
    agents = {"random_search": {}, "netadapt": {"evaluations": 24}}
    small = {**SMALL, "recovery": recovery, "evaluations": 4, "agents": agents}
    app.search(parse_config(small), tmp_path / "run")
    for agent in agents:
        plan = tmp_path / f"run/{agent}-s0/plan.json"
        assert app.evaluate_plan(plan)["reproduced"]
        app.export(tmp_path / "run", agent, 0, tmp_path / f"{agent}.json")
        assert (tmp_path / f"{agent}.weights.safetensors").is_file()
        app.apply(tmp_path / f"{agent}.json", tmp_path / f"{agent}.safetensors")
        applied = load_file(tmp_path / f"{agent}.safetensors")
        kept = load_file(plan.parent / "weights.safetensors")
        assert all(torch.equal(applied[name], kept[name]) for name in applied)
    assert app.evaluate_plan(tmp_path / "run/netadapt-s0/family/00.json")["reproduced"]
    plan = tmp_path / "run/random_search-s0/plan.json"
    app.apply(plan, tmp_path / "again.safetensors", from_original=True)
    again = load_file(tmp_path / "again.safetensors")
    kept = load_file(plan.parent / "weights.safetensors")
    for name, tensor in kept.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-4, atol=1e-5)
    longer = app.resume(tmp_path / "run", evaluations=6)
    assert longer["rows"][0]["evaluations"] == 6
