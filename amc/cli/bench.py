"""``amc bench``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.errors import InputError
from amc.registry import nearest
from amc.reporting import Reporter

BUILT = ("workers",)
PLANNED = ("kernels", "latency", "evaluation")


def bench(
    subject: Annotated[str, typer.Argument(help="What to time: workers.")],
    source: Annotated[
        str, typer.Argument(metavar="[TASK|CONFIG]", help="With which network.")
    ] = "resnet20",
    as_json: AsJson = False,
) -> None:
    """Time a part of this software on this machine."""

    def work(reporter: Reporter) -> Any:
        if subject in PLANNED:
            raise InputError(f"bench {subject!r} is not built yet; built: {', '.join(BUILT)}")
        if subject not in BUILT:
            hint = nearest(subject, list(BUILT))
            raise InputError(f"bench {subject!r} is unknown{hint or '; known: workers'}")
        from amc import app

        return app.bench_workers(app.load_config(source), reporter)

    answer(work, show_facts, as_json)
