"""The options of ``amc finetune`` that are fields of its settings; ``None`` leaves a default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    Path | None,
    typer.Option(help="A YAML file with these options, which given ones override."),
]
Steps = Annotated[int | None, typer.Option(help="Batches, of all stages together.")]
Epochs = Annotated[
    float | None, typer.Option(help="Passes over the training split instead (default: 8).")
]
LearningRate = Annotated[
    float | None, typer.Option(help="The first, of a half-cosine (default: 0.02).")
]
BatchSize = Annotated[int | None, typer.Option(help="Examples (default: 64).")]
WeightDecay = Annotated[
    float | None, typer.Option(help="L2, on every parameter (default: 0.0005).")
]
L1 = Annotated[float | None, typer.Option(help="L1, on kernels and matrices.")]
Distill = Annotated[
    float | None, typer.Option(help="Weight in [0, 1] of the dense network's outputs.")
]
Temperature = Annotated[float | None, typer.Option(help="What softens those outputs (default: 4).")]
Patience = Annotated[
    int | None, typer.Option(help="Stop after so many checks without a new best, and keep it.")
]
CheckEvery = Annotated[
    int | None, typer.Option(help="Steps between checks on the search split (default: epoch).")
]
Augment = Annotated[
    bool | None, typer.Option("--augment/--no-augment", help="Shift and mirror the images.")
]
Zeros = Annotated[
    str | None, typer.Option(help="Of sparse layers: fixed, or sr_ste for N:M (default: fixed).")
]
Stages = Annotated[
    str | None,
    typer.Option(help="Prune in so many stages, or at levels such as '[0.5, 0.8, 1]'."),
]
Criterion = Annotated[
    str | None, typer.Option(help="Which channels go first (default: magnitude_l1).")
]
Recovery = Annotated[
    str | None, typer.Option(help="What precedes it, such as least_squares+batch_norm.")
]
DataName = Annotated[str | None, typer.Option(help="pack or full (default: the plan's).")]
Seed = Annotated[
    int | None, typer.Option(help="Of order and augmentation (default: the search's).")
]
Threads = Annotated[int | None, typer.Option(help="Of torch (default: 1).")]
