"""``amc arena``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import FAILED, AsJson, answer, say
from amc.reporting import Reporter


def arena(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT", help="A YAML file, or an arena.json to report on again."
        ),
    ],
    run_dir: Annotated[
        Path | None,
        typer.Option(help="The folder of all searches, which are gone on with; runs/arena."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Search these tasks only.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Searches at a time; 0 makes them in this process."),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="The folder of the report; experiments/results.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="No search: report on those that are done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let agents search the same tasks, seed by seed, and report who does best, and how surely.

    Searches are made side by side, each on one core; each is a run folder like that of amc search.
    Searches that are done are not made again.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        only = None if tasks is None else [name.strip() for name in tasks.split(",")]
        return app.arena(source, run_dir, only, workers, out_dir, reporter, collect)

    found = answer(work, _show, as_json)
    for failure in found["failures"]:
        again = "; the same command tries again" if failure["again"] else ""
        say(f"error: {failure['search']}: {failure['why']}{again}")
    if found["failures"]:
        raise typer.Exit(FAILED)


def _show(result: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("agent", no_wrap=True)
    for name in ("rank", "points from dense", "rank at equal time", "evaluation s", "agent s"):
        table.add_column(name, justify="right")
    for row in result["ranking"]:
        ranks = (_text(row["rank"], 1), _text(row["from_dense"], 100))
        seconds = (f"{row['evaluation_s']:.3g}", f"{row['agent_s']:.3g}")
        table.add_row(row["agent"], *ranks, _text(row["rank_at_equal_time"], 1), *seconds)
    Console().print(table)
    missing = f", {result['missing']} missing" if result["missing"] else ""
    print(f"{result['searches']} searches{missing}. Report: {result['files'][0]}")


def _text(found: Mapping[str, Any] | None, scale: float) -> str:
    if found is None:
        return "-"
    text = f"{scale * found['value']:.2f}"
    if found["interval"] is None:
        return text
    low, high = (scale * value for value in found["interval"])
    return f"{text} [{low:.2f}, {high:.2f}]"
