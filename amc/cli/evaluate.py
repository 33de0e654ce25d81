"""``amc evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import FAILED, AsJson, answer, say
from amc.cli.evaluation_tables import show_evaluation
from amc.reporting import Reporter


def evaluate(
    plan: Annotated[Path, typer.Argument(help="A plan, as JSON.")],
    task: Annotated[str | None, typer.Option(help="The network, if not the one named.")] = None,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the full data set lies, if the plan needs it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compress as a plan says, and take the accuracy that it records once more.

    Exit code 1 where it does not come out as recorded.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.evaluate_plan(plan, task, data_folder)

    result = answer(work, show_evaluation, as_json)
    if "warning" in result:
        say(f"warning: {result['warning']}")
    if result.get("reproduced") is False:
        say(
            "error: NOT REPRODUCED: the accuracy now is not the one on record; compare torch's "
            "version and the device with those under provenance in the plan"
        )
        raise typer.Exit(FAILED)
