"""``amc compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_results
from amc.reporting import Reporter


def compare(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders of finished searches.")],
    html: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the results of one or more searches as one table."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.compare(run_dirs, html)

    answer(work, show_results, as_json)
