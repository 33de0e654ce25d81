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
    continue_elsewhere: Annotated[
        bool,
        typer.Option(
            "--continue-elsewhere", help="Where processor, versions or code are not as they were."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a search that was interrupted, or give a finished one more evaluations.

    The search is made again with the answers of its journal, so it ends as if nothing had happened.
    That is exact on equal processors, versions and code. Elsewhere it is refused; with
    --continue-elsewhere it goes on in steps of its own, and what is on record is not evaluated
    again.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.resume(run_dir, evaluations, reporter, workers, continue_elsewhere)

    require_plans(answer(work, show_results, as_json, hint=f"amc resume {run_dir}"))
