"""Every file in ``experiments/`` is what its command takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from amc import app, recipe
from amc.finetune_settings import read_recipe

FILES = sorted((Path(__file__).resolve().parent.parent / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_valid(path: Path) -> None:
    if path.name.startswith("train-"):
        assert recipe.read_recipe(path).network in path.stem
    elif path.name.startswith("finetune"):
        assert read_recipe(path)
    else:
        assert app.validate(path)["valid"]
