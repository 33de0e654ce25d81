"""``amc bench``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.cli.bench_tables import show_blocks, show_criteria, show_latency
from amc.cli.kernel_tables import show_kernels
from amc.errors import InputError
from amc.registry import nearest
from amc.reporting import Reporter

# What is timed, and the options that each takes; others are refused.
OPTIONS = {
    "criteria": ("network", "task", "out"),
    "evaluation": ("network", "task", "plans", "seed", "evaluations", "rounds", "out"),
    "kernels": ("batch_size", "rounds", "threads", "set", "quick", "out"),
    "latency": ("network", "task", "table", "plans", "seed", "batch_size", "out"),
    "workers": ("network", "task", "workers", "plans", "seed", "evaluations", "rounds", "out"),
}


def bench(
    subject: Annotated[str, typer.Argument(help=f"What to time: {', '.join(OPTIONS)}.")],
    network: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK|CONFIG]", help="With which network, but for kernels; else with several."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The network, also your own: package.module:factory.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="latency: the file of the table; else the user's cache folder."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="workers: the most that are timed, 2 unless given.")
    ] = None,
    plans: Annotated[
        int | None,
        typer.Option(
            help="Random plans a network, unless given latency 20, evaluation 4, workers 16."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the random plans, and of the search; 0 unless given.")
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="How long the ddpg search is that is timed: evaluation 200 unless given, "
            "workers none."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a batch: latency 32 unless given, kernels (zoo's layers) 1."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Interleaved timings: kernels 15 unless given, 7 with --quick, evaluation and "
            "workers 5."
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="1,2", help="kernels: of torch and of ours; several take turns; 1 unless given."
        ),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option("--set", metavar="table|zoo", help="kernels: these shapes only."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="kernels: fewer shapes, patterns and rounds.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for the rows as JSON, of kernels and latency a chart too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time a part of this software on this machine."""
    options = {
        "network": network,
        "task": task,
        "table": table,
        "workers": workers,
        "plans": plans,
        "seed": seed,
        "evaluations": evaluations,
        "batch_size": batch_size,
        "rounds": rounds,
        "threads": threads,
        "set": shapes,
        "quick": quick or None,
        "out": out,
    }
    given = {option: value for option, value in options.items() if value is not None}

    def work(reporter: Reporter) -> Any:
        _check(subject, given)
        return BENCHES[subject](given, reporter)

    answer(work, SHOWN.get(subject, show_blocks), as_json)


def _check(subject: str, given: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for an unknown subject, and for options that it has no use for."""
    if subject not in OPTIONS:
        hint = nearest(subject, list(OPTIONS)) or f"; known: {', '.join(OPTIONS)}"
        raise InputError(f"bench {subject!r} is unknown{hint}")
    for option, value in given.items():
        if option not in OPTIONS[subject]:
            name = "TASK|CONFIG" if option == "network" else f"--{option.replace('_', '-')}"
            shown = name if value is True else f"{name} {str(value)!r}"
            takers = " and ".join(one for one, known in OPTIONS.items() if option in known)
            raise InputError(
                f"{shown} is an option of bench {takers}, not of bench {subject}; leave it out"
            )


def _evaluation(given: Mapping[str, Any], reporter: Reporter) -> Any:
    from amc import app_bench

    return app_bench.bench_evaluation(
        _configs(given),
        given.get("evaluations", 200),
        given.get("plans", 4),
        given.get("rounds", 5),
        given.get("seed", 0),
        reporter,
        given.get("out"),
    )


def _workers(given: Mapping[str, Any], reporter: Reporter) -> Any:
    from amc import app_bench

    return app_bench.bench_workers(
        _configs(given),
        given.get("workers", 2),
        given.get("evaluations"),
        given.get("plans", 16),
        given.get("rounds", 5),
        given.get("seed", 0),
        reporter,
        given.get("out"),
    )


def _kernels(given: Mapping[str, Any], reporter: Reporter) -> Any:
    from amc import app_bench

    return app_bench.bench_kernels(
        given.get("rounds"),
        given.get("batch_size", 1),
        _counts(given.get("threads", "1")),
        _listed(given.get("set", "table,zoo")),
        given.get("quick", False),
        reporter,
        given.get("out"),
    )


def _latency(given: Mapping[str, Any], reporter: Reporter) -> Any:
    from amc import app_bench

    return app_bench.bench_latency(
        _named(given),
        given.get("table"),
        given.get("plans", 20),
        given.get("seed", 0),
        given.get("batch_size", 32),
        reporter,
        given.get("out"),
    )


def _criteria(given: Mapping[str, Any], reporter: Reporter) -> Any:
    from amc import app_bench

    return app_bench.bench_criteria(_named(given), reporter, given.get("out"))


BENCHES = {
    "criteria": _criteria,
    "evaluation": _evaluation,
    "kernels": _kernels,
    "latency": _latency,
    "workers": _workers,
}


def _named(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the one network that is named, or none."""
    names = tuple(given[key] for key in ("network", "task") if key in given)
    if len(names) > 1:
        raise InputError(
            f"TASK|CONFIG {names[0]!r} and --task {names[1]!r} both name a network; leave one out"
        )
    return names


def _configs(given: Mapping[str, Any]) -> list[Any]:
    """Return the configuration named, or that of the network named, or those of several."""
    from amc import app, app_bench
    from amc.bench_evaluation import NETWORKS

    source = given.get("network")
    if source is not None and source.endswith((".yaml", ".yml")):
        return [app.load_config(source, task=given.get("task"))]
    return [app_bench.evaluation_config(name) for name in _named(given) or NETWORKS]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _counts(threads: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in _listed(threads)))
    except ValueError:
        raise InputError(
            f"--threads must be numbers such as 1 or 1,2, but got {threads!r}"
        ) from None


SHOWN = {"criteria": show_criteria, "kernels": show_kernels, "latency": show_latency}
