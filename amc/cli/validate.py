"""``amc validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def validate(
    path: Annotated[Path, typer.Argument(help="A plan (.json) or a configuration (.yaml).")],
    as_json: AsJson = False,
) -> None:
    """Check a file without loading network or data; exit code 2 and the reason if it is bad.

    A plan is checked against its schema; of a configuration also that the zoo's task, space,
    criterion, agents and their options are known.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.validate(path)

    answer(work, show_facts, as_json)
