"""``amc finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.accuracy_tables import show_finetunings
from amc.cli.answer import AsJson, answer
from amc.reporting import Reporter


def finetune(
    plans: Annotated[
        list[Path],
        typer.Argument(help="A plan, as JSON; or several, and folders of finished searches."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A new folder; by default PLAN-finetuned beside the plan.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="A YAML file with these options, which given ones override."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches, of all stages together.")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the training split instead [default: 8].")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The first, of a half-cosine [default: 0.02].")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples [default: 64].")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="L2, on every parameter [default: 0.0005].")
    ] = None,
    l1: Annotated[float | None, typer.Option(help="L1, on kernels and matrices.")] = None,
    distill: Annotated[
        float | None, typer.Option(help="Weight in [0, 1] of the dense network's outputs.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="What softens those outputs [default: 4].")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many checks without a new best, and keep it.")
    ] = None,
    check_every: Annotated[
        int | None, typer.Option(help="Steps between checks on the search split [default: epoch].")
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Shift and mirror the images.")
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(help="Prune in so many stages, or at levels such as '[0.5, 0.8, 1]'."),
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="Which channels go first [default: magnitude_l1].")
    ] = None,
    recovery: Annotated[
        str | None, typer.Option(help="What precedes it, such as least_squares+batch_norm.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="pack or full [default: the plan's].")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of order and augmentation [default: the search's].")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch [default: 1].")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was interrupted in --out.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="The network, if not the one named.")] = None,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the full data set lies, if it is needed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the network that a plan leaves, and write a plan with the new weights.

    Of a folder that amc search wrote, every agent's and seed's plan is trained.
    """
    options = {
        **{"steps": steps, "epochs": epochs, "learning_rate": learning_rate},
        **{"batch_size": batch_size, "weight_decay": weight_decay, "l1": l1},
        **{"distill": distill, "temperature": temperature, "patience": patience},
        **{"check_every": check_every, "augment": augment, "stages": stages},
        **{"criterion": criterion, "recovery": recovery, "data": data},
        **{"seed": seed, "threads": threads},
    }
    given = {name: value for name, value in options.items() if value is not None}

    def work(reporter: Reporter) -> Any:
        from amc import app
        from amc.finetune_settings import read_recipe

        return app.finetune(
            plans[0] if len(plans) == 1 else plans,
            out,
            given if recipe is None else {**read_recipe(recipe), **given},
            resume=resume,
            task=task,
            data_folder=data_folder,
            reporter=reporter,
        )

    answer(work, show_finetunings, as_json)
