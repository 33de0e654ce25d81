"""``amc apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def apply(
    plan: Annotated[Path, typer.Argument(help="A plan, as JSON.")],
    out: Annotated[
        Path, typer.Option(help="The network: .safetensors, .onnx or .pt2 (torch.export).")
    ],
    from_original: Annotated[
        bool,
        typer.Option(
            "--from-original", help="Take the original network's weights, not those the plan names."
        ),
    ] = False,
    task: Annotated[str | None, typer.Option(help="The network, if not the one named.")] = None,
    finetuned: Annotated[
        bool, typer.Option("--finetuned", help="Take the weights after the short fine-tuning.")
    ] = False,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the full data set lies, if the plan needs it.")
    ] = None,
    unpacked: Annotated[
        bool,
        typer.Option("--unpacked", help="Sparse layers as plain weights with zeros, not packed."),
    ] = False,
    masks: Annotated[
        bool, typer.Option("--masks", help="Sparse layers with masks of torch.nn.utils.prune.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the compressed network that a plan describes."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.apply(plan, out, from_original, task, finetuned, data_folder, unpacked, masks)

    answer(work, show_facts, as_json)
