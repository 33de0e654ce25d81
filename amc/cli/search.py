"""``amc search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer, require_plans
from amc.cli.explanation_tables import show_explanation
from amc.cli.tables import show_results
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
        bool, typer.Option("--explain", help="No search: what each site loses and saves.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best plan under a budget, with every agent of the configuration.

    With --explain nothing is searched: it shows for each site the error of the reconstructed layers
    and the predicted latency and MACs at each width, the coupled layers, and whether the budget can
    be reached. The curves are drawn in RUN_DIR-explain.png.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app

        loaded = app.load_config(
            config,
            overrides or [],
            task=task,
            agents=None if agents is None else [name.strip() for name in agents.split(",")],
            seed=seed,
            workers=workers,
        )
        return (app.explain if explain else app.search)(loaded, run_dir, reporter)

    found = answer(work, show_explanation if explain else show_results, as_json)
    if not explain:
        require_plans(found)
