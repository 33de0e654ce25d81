"""``amc search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_results
from amc.errors import InputError
from amc.reporting import Reporter


def search(
    config: Annotated[str, typer.Argument(help="A YAML file, or a task's name for the defaults.")],
    task: Annotated[
        str | None,
        typer.Option(help="Compress another network: resnet20, or package.module:factory."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as budget.macs=0.5."),
    ] = None,
    agents: Annotated[
        str | None, typer.Option(metavar="A,B", help="Run these agents only.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Run with this seed only.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers; 0 evaluates in this process.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="The folder for everything the search leaves.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every step's state and reward.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best plan under a budget, with every agent of the configuration."""

    def work(reporter: Reporter) -> Any:
        if explain:
            raise InputError("--explain is not built yet; leave it out")
        from amc import app

        loaded = app.load_config(
            config,
            overrides or [],
            task=task,
            agents=None if agents is None else [name.strip() for name in agents.split(",")],
            seed=seed,
            workers=workers,
        )
        return app.search(loaded, run_dir, reporter)

    answer(work, show_results, as_json)
