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

BUILT = ("evaluation", "kernels", "latency", "workers")


def bench(
    subject: Annotated[str, typer.Argument(help=f"What to time: {', '.join(BUILT)}.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK|CONFIG]",
            help="With which network; resnet20 or, for evaluation and latency, several.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The network, also your own: package.module:factory.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="latency: the file of the table; else the user's cache folder."),
    ] = None,
    plans: Annotated[
        int | None,
        typer.Option(
            help="How many random plans a network: latency 20 unless given, evaluation 4."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random plans, and of evaluation's search.")] = 0,
    evaluations: Annotated[
        int, typer.Option(help="evaluation: how long the ddpg search is that is timed.")
    ] = 200,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a batch: latency 32 unless given, kernels (zoo's layers) 1."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Interleaved timings: kernels 15 unless given, 7 with --quick, evaluation 5."
        ),
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
        typer.Option(help="A folder for the rows as JSON and, but for evaluation, a chart."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time a part of this software on this machine."""

    def work(reporter: Reporter) -> Any:
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
                tasks,
                table,
                20 if plans is None else plans,
                seed,
                32 if batch_size is None else batch_size,
                reporter,
                out,
            )
        if subject == "evaluation":
            from amc.bench_evaluation import NETWORKS

            known = name is not None and name.endswith((".yaml", ".yml"))
            load = app.load_config if known else app_bench.evaluation_config
            configs = [load(one) for one in ((name,) if name else NETWORKS)]
            return app_bench.bench_evaluation(
                configs,
                evaluations,
                4 if plans is None else plans,
                5 if rounds is None else rounds,
                seed,
                reporter,
                out,
            )
        return app_bench.bench_workers(app.load_config(name or "resnet20"), reporter)

    shown = {
        "latency": _show_latency,
        "kernels": show_kernels,
        "evaluation": _show_evaluation,
    }
    show = shown.get(subject, show_facts)
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


def _show_evaluation(rows: list[dict[str, Any]]) -> None:
    """Print each network's facts as a block."""
    for row in rows:
        show_facts(row)
        print()
