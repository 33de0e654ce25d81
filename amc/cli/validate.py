"""``amc validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def validate(
    path: Annotated[Path, typer.Argument(help="A plan, a configuration or a latency table.")],
    as_json: AsJson = False,
) -> None:
    """Check a file against its schema; exit code 2 and the reason when it is not valid."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.validate(path)

    answer(work, show_facts, as_json)
