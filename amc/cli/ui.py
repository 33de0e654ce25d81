"""``amc ui``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def ui(
    run_dir: Annotated[
        Path | None, typer.Option(help="A run folder, or the folder of several.")
    ] = None,
    db: Annotated[
        str | None, typer.Option(metavar="FILE|URI", help="A database file or a tracking URI.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where to listen; 5000 if it is free.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Open the runs in MLflow's pages, until Ctrl-C."""

    def work(reporter: Reporter) -> Any:
        from amc.tracking import store_of
        from amc.ui import serve

        uri = store_of(run_dir, db)
        reporter.message(f"starting MLflow over {uri} ...")
        with serve(uri, port) as server:
            reporter.message(f"MLflow answers at {server.url} (Ctrl-C ends it)")
            code = server.process.wait()
        return {"url": server.url, "exit_code": code}

    answer(work, show_facts, as_json)
