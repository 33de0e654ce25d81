"""``amc inspect``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_inspection
from amc.reporting import Reporter


def inspect(
    source: Annotated[
        str,
        typer.Argument(metavar="TASK|CONFIG", help="resnet20, package.module:factory, or a YAML."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show sites, coupling, dense costs, and the smallest reachable value of every budget."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.inspect(app.load_config(source), reporter)

    answer(work, show_inspection, as_json)
