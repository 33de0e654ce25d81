"""Every file in ``experiments/`` is what its command takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from amc import app, recipe
from amc.arena import bouts_of, read_experiment
from amc.assembly import make_agent
from amc.finetune_settings import read_recipe

FILES = sorted((Path(__file__).resolve().parent.parent / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_valid(path: Path) -> None:
    if path.name.startswith("train-"):
        assert recipe.read_recipe(path).network in path.stem
    elif path.name.startswith("finetune"):
        assert read_recipe(path)
    elif path.name.startswith("arena"):
        for bout in bouts_of(read_experiment(path), path.stem, Path("runs/arena")):
            assert make_agent(bout.agent, bout.config.agents[bout.agent])
    else:
        assert app.validate(path)["valid"]
