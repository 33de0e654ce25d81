"""``amc finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli import finetune_options as own
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
    recipe: own.Recipe = None,
    steps: own.Steps = None,
    epochs: own.Epochs = None,
    learning_rate: own.LearningRate = None,
    batch_size: own.BatchSize = None,
    weight_decay: own.WeightDecay = None,
    l1: own.L1 = None,
    distill: own.Distill = None,
    temperature: own.Temperature = None,
    patience: own.Patience = None,
    check_every: own.CheckEvery = None,
    augment: own.Augment = None,
    zeros: own.Zeros = None,
    stages: own.Stages = None,
    criterion: own.Criterion = None,
    recovery: own.Recovery = None,
    data: own.DataName = None,
    seed: own.Seed = None,
    threads: own.Threads = None,
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
        **{"check_every": check_every, "augment": augment, "stages": stages, "zeros": zeros},
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
