"""``amc resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer, require_plans
from amc.cli.tables import show_results
from amc.reporting import Reporter


def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of an earlier search.")],
    evaluations: Annotated[
        int | None, typer.Option(help="Go on to this many evaluations an agent.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers; 0 evaluates in this process.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a search that was interrupted, or give a finished one more evaluations."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.resume(run_dir, evaluations, reporter, workers)

    require_plans(answer(work, show_results, as_json, hint=f"amc resume {run_dir}"))
