"""``amc import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.tables import show_facts
from amc.reporting import Reporter


def import_masks(
    state: Annotated[
        Path,
        typer.Argument(
            help="state_dict of a network with masks of torch.nn.utils.prune: .safetensors, or a "
            "file of torch.save."
        ),
    ],
    source: Annotated[
        str, typer.Argument(metavar="TASK|CONFIG", help="The network, unpruned, and its data.")
    ],
    out: Annotated[Path, typer.Option(help="The plan, as JSON; its weights are put beside it.")],
    as_json: AsJson = False,
) -> None:
    """Make a plan of a network that was pruned elsewhere."""

    def work(reporter: Reporter) -> Any:
        from amc import app

        return app.import_masks(state, source, out, reporter)

    answer(work, show_facts, as_json)
