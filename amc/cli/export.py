"""``amc export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def export(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a finished search.")],
    out: Annotated[Path, typer.Option(help="The file for the plan.")],
    agent: Annotated[str | None, typer.Option(help="Whose plan; else the best one's.")] = None,
    seed: Annotated[int | None, typer.Option(help="The plan of this seed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a search's plan, and the weights that it names, to files of their own."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.export(run_dir, agent, seed, out)

    answer(work, show_facts, as_json)
