"""``amc measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def measure(
    source: Annotated[
        str,
        typer.Argument(metavar="TASK|CONFIG", help="Whose layers to time."),
    ] = "resnet20",
    out: Annotated[
        Path | None, typer.Option(help="The file for the table; else the user's cache folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time every layer at every width that a search can ask for, on this machine."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.measure(app.load_config(source), out, reporter)

    answer(work, show_facts, as_json)
