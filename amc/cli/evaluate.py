"""``amc evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def evaluate(
    plan: Annotated[Path, typer.Argument(help="A plan, as JSON.")],
    task: Annotated[str | None, typer.Option(help="The network, if not the one named.")] = None,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the full data set lies, if the plan needs it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compress as a plan says, and take the accuracy that it records once more."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.evaluate_plan(plan, task, data_folder)

    answer(work, show_facts, as_json)
