"""``amc sync``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import FAILED, AsJson, answer, say
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def sync(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, its search ended or not.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where to, for this once; by default the run's own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Deliver to MLflow what has not reached it of a run. Nothing arrives twice.

    A run does so by itself; this is for what was left when MLflow did not answer.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.sync(run_dir, tracking_uri, reporter)

    done = answer(work, show_facts, as_json)
    if done["left"]:
        left = f"error: {done['left']} entries of {run_dir} wait for MLflow"
        if done["busy"]:
            say(f"{left}: another process delivers them now; ask again with: amc sync {run_dir}")
        else:
            say(f"{left} at {done['store']}: {done['error']}; try again with: amc sync {run_dir}")
        raise typer.Exit(FAILED)
