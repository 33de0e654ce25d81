"""``amc bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.kernel_tables import show_kernels
from amc.cli.tables import show_facts
from amc.errors import InputError
from amc.registry import nearest
from amc.reporting import Reporter

BUILT = ("kernels", "latency", "workers")
PLANNED = ("evaluation",)


def bench(
    subject: Annotated[str, typer.Argument(help=f"What to time: {', '.join(BUILT)}.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK|CONFIG]", help="With which network; resnet20 or, for latency, several."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The network, also your own: package.module:factory.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="latency: the file of the table; else the user's cache folder."),
    ] = None,
    plans: Annotated[int, typer.Option(help="latency: how many random plans a network.")] = 20,
    seed: Annotated[int, typer.Option(help="latency: of the random plans.")] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a batch: latency 32 unless given, kernels (zoo's layers) 1."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="kernels: of interleaved timings; 15 unless given, 7 with --quick."),
    ] = None,
    threads: Annotated[
        str,
        typer.Option(metavar="1,2", help="kernels: of torch and of ours; several take turns."),
    ] = "1",
    shapes: Annotated[
        str,
        typer.Option("--set", metavar="table|zoo", help="kernels: these shapes only."),
    ] = "table,zoo",
    quick: Annotated[
        bool, typer.Option("--quick", help="kernels: fewer shapes, patterns and rounds.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="kernels, latency: a folder for the rows as JSON and a chart."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time a part of this software on this machine."""

    def work(reporter: Reporter) -> Any:
        if subject in PLANNED:
            raise InputError(f"bench {subject!r} is not built yet; built: {', '.join(BUILT)}")
        if subject not in BUILT:
            hint = nearest(subject, list(BUILT)) or f"; known: {', '.join(BUILT)}"
            raise InputError(f"bench {subject!r} is unknown{hint}")
        from amc import app, app_bench

        name = task or source
        if subject == "kernels":
            size = 1 if batch_size is None else batch_size
            sets = _listed(shapes)
            return app_bench.bench_kernels(
                rounds, size, _counts(threads), sets, quick, reporter, out
            )
        if subject == "latency":
            tasks = (name,) if name else ()
            return app_bench.bench_latency(
                tasks, table, plans, seed, 32 if batch_size is None else batch_size, reporter, out
            )
        return app_bench.bench_workers(app.load_config(name or "resnet20"), reporter)

    show = {"latency": _show_latency, "kernels": show_kernels}.get(subject, show_facts)
    answer(work, show, as_json)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _counts(threads: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in _listed(threads)))
    except ValueError:
        raise InputError(
            f"--threads must be numbers such as 1 or 1,2, but got {threads!r}"
        ) from None


def _show_latency(rows: list[dict[str, Any]]) -> None:
    """Print the error table of ``amc bench latency``, a network a block."""
    from amc.bench_latency import error_table

    first = rows[0]
    show_facts(
        {
            "backend": first["backend"],
            "batch_size": first["batch_size"],
            "threads": first["threads"],
            "table": "noisy" if first["noisy_table"] else "calm",
        }
    )
    for facts in error_table(rows):
        print()
        show_facts(facts)
