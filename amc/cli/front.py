"""``amc front``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import AsJson, answer
from amc.reporting import Reporter

FORMS = {"x dense": "same", "x ONNX Runtime": "onnx_runtime"}


def front(
    run_dirs: Annotated[
        list[Path], typer.Argument(help="Searches of one network, fine-tuned: amc finetune DIR.")
    ],
    out: Annotated[Path | None, typer.Option(help="A folder for front.json and front.png.")] = None,
    task: Annotated[str | None, typer.Option(help="The network, if it is your own.")] = None,
    data_folder: Annotated[
        str | None, typer.Option(help="Where the full data set lies, if the plans need it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time all plans of runs beside the dense network, and compare their search spaces.

    Accuracy is that on test images after fine-tuning. The dense network is timed as it is deployed
    (channels_last), in torch's default layout, with ReLU fused and weights packed, and in ONNX
    Runtime. Nothing else should run meanwhile.
    """

    def work(reporter: Reporter) -> Any:
        from amc import app_bench

        return app_bench.front(run_dirs, reporter, out, task, data_folder)

    answer(work, _show, as_json)


def _show(result: Mapping[str, Any]) -> None:
    from rich.console import Console

    from amc.cli.tables import show_facts

    columns = ["space", "budget", "search", "test %", "lost", "pred. ms", "meas. ms"]
    rows = [_plan_line(row) for row in result["rows"]]
    console = Console()
    console.print(_table([*columns, *FORMS], rows))
    lost = f"{100 * result['lost']:g} points lost"
    spaces = [_space_line(row) for row in result["spaces"]]
    console.print(_table(["space", "hypervolume", "of each seed", *FORMS], spaces, lost))
    keys = ("network", "batch_size", "threads", "backend", "dense_test_accuracy", "test_images")
    show_facts({key: result[key] for key in keys})
    show_facts({f"dense_{form}_ms": f"{1e3 * s:.3g}" for form, s in result["dense"].items()})
    for form, why in result["missing"].items():
        print(f"note: dense {form} was not timed: {why}")
    print("\n'x dense' is over the fastest of torch's forms; hypervolumes go by it.")
    print("\nPredicted against measured")
    show_facts(result["predictions"])


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], fastest_at: str | None = None
) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        left = name in ("space", "budget", "search")
        shown = name if fastest_at is None or name not in FORMS else f"{name}, {fastest_at}"
        table.add_column(shown, justify="left" if left else "right", no_wrap=left)
    for row in rows:
        table.add_row(*row)
    return table


def _plan_line(row: Mapping[str, Any]) -> list[str]:
    ((key, fraction),) = row["budget"].items()
    return [
        row["space"],
        f"{key.removeprefix('predicted_')} {fraction:g}",
        f"{row['agent']}-s{row['seed']}",
        f"{100 * row['test_accuracy']:.2f}",
        f"{100 * row['lost']:.2f}",
        f"{1e3 * row['predicted_latency_s']:.3g}",
        f"{1e3 * row['measured_latency_s']:.3g}" + ("~" if row["noisy"] else ""),
        *(_times(row["speedup"].get(form)) for form in FORMS.values()),
    ]


def _times(speedup: float | None) -> str:
    return "-" if speedup is None else f"{speedup:.2f}"


def _space_line(row: Mapping[str, Any]) -> list[str]:
    each = " ".join(f"{volume:.3f}" for volume in row["hypervolumes"])
    fastest = [
        " ".join(_times(its and its.get(form)) for its in row["fastest"]) for form in FORMS.values()
    ]
    return [row["space"], f"{row['hypervolume']:.3f}", each, *fastest]
