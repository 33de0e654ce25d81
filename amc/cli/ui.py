"""``amc ui``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter
from amc.store_uri import parts, store_of
from amc.ui import Server, serve


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
    with contextlib.ExitStack() as stack:
        running: list[Server] = []

        def work(reporter: Reporter) -> Any:
            uri = store_of(run_dir, db)
            shown = parts(uri).public
            reporter.message(f"starting MLflow over {shown}; Ctrl-C ends it")
            running.append(stack.enter_context(serve(uri, port)))
            return {"url": running[0].url, "store": shown, "pid": running[0].process.pid}

        answer(work, show_facts, as_json)
        with contextlib.suppress(KeyboardInterrupt):
            raise typer.Exit(1 if running[0].process.wait() else 0)
