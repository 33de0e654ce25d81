"""``amc measure``."""

from __future__ import annotations

import shlex
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
    patterns: Annotated[
        str,
        typer.Option(help="Sparse patterns to time beside dense: 2:4,1:4,csr,csc,4x1, or all."),
    ] = "dense",
    allow_noisy: Annotated[
        bool,
        typer.Option("--allow-noisy", help="Write a table with noisy points too, marked so."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time every layer at every width that a search can ask for, on this machine."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.measure(app.load_config(source), out, reporter, patterns, allow_noisy)

    again = ["amc", "measure", source, *(["--out", str(out)] if out else [])]
    again += [] if patterns == "dense" else ["--patterns", patterns]
    again += ["--allow-noisy"] if allow_noisy else []
    answer(work, show_facts, as_json, f"{shlex.join(again)} (what is timed so far is kept)")
