"""The command ``amc``: one thin file a command, each calling its namesake in ``amc.app``.

Exit codes: 0 done, 2 bad input, 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from amc.cli.apply import apply
from amc.cli.arena import arena
from amc.cli.bench import bench
from amc.cli.compare import compare
from amc.cli.evaluate import evaluate
from amc.cli.export import export
from amc.cli.finetune import finetune
from amc.cli.front import front
from amc.cli.import_masks import import_masks
from amc.cli.inspect import inspect
from amc.cli.journal import journal
from amc.cli.measure import measure
from amc.cli.resume import resume
from amc.cli.search import search
from amc.cli.sync import sync
from amc.cli.train import train
from amc.cli.ui import ui
from amc.cli.validate import validate
from amc.errors import InputError
from amc.interruption import Interruption
from amc.layout import check_layout

COMMANDS = (
    *(search, inspect, resume, journal, compare, export, validate),
    *(apply, evaluate, finetune, front, arena, measure, train, bench, ui, sync),
)

application = typer.Typer(
    name="amc",
    help="Decide, layer by layer, how to compress a trained network for a given device.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _command in COMMANDS:
    application.command()(_command)
application.command("import")(import_masks)


def main() -> None:
    """Run the command line given in ``sys.argv``, and leave with its exit code."""
    # A task may be named as package.module:factory, importable from the working folder. It comes
    # last, so that nothing there hides an installed package.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    # A script's shell starts background commands with SIGINT ignored; whoever sends it means it.
    Interruption().install()
    try:
        check_layout()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    application()
