"""``amc train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def train(
    recipe: Annotated[Path, typer.Argument(help="A training recipe, as YAML.")],
    out: Annotated[Path | None, typer.Option(help="The file for the weights.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a network of the zoo from a recipe."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.train(recipe, out, reporter)

    answer(work, show_facts, as_json)
