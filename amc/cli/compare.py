"""``amc compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.accuracy_tables import show_comparison
from amc.cli.answer import AsJson, answer
from amc.reporting import Reporter


def compare(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders of finished searches.")],
    html: Annotated[
        Path | None, typer.Option(help="Also write one page: tables, charts, differences.")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Also draw the learning curves into this PNG.")
    ] = None,
    paired: Annotated[
        str | None,
        typer.Option(
            metavar="AGENT",
            help="Also hold the fine-tuned plans against this agent's, test image by test image.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the results of one or more searches as one table.

    The page of --html holds its pictures and needs no network. Searches that differ in their seeds
    alone share a learning curve, drawn with their spread.

    With --paired, each agent's accuracy before and after amc finetune RUN_DIR, its difference from
    that agent and from the dense network, and bootstrap 95% intervals over test images and seeds.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.compare(run_dirs, html, curves, paired)

    answer(work, show_comparison, as_json)
