"""Accuracies before and after fine-tuning, of many plans, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amc.cli.tables import console, new_table, plain, show_finetuning, show_results
from amc.result_text import MISSING, Row, percent

if TYPE_CHECKING:
    from rich.table import Table

NETWORKS = {
    "searched": "as searched",
    "recovered": "same weights",
    "finetuned": "fine-tuned",
}


def show_finetunings(result: Mapping[str, Any]) -> None:
    """Print the report of one fine-tuning, or one line for each of several."""
    if "rows" not in result:
        show_finetuning(result)
        return
    out, rows = console(), result["rows"]
    table = new_table("agent")
    for name in ("seed", "search\nacc. %", "test\nacc. %", "tuned\nsearch %", "tuned\ntest %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("plan", overflow="fold")
    keys = ("search_accuracy", "test_accuracy")
    for row in rows:
        scores = [percent(row[f"{prefix}{key}"]) for prefix in ("", "finetuned_") for key in keys]
        table.add_row(row["agent"], str(row["seed"]), *scores, row["finetuned_plan"])
    out.print(table)
    images = {key: _numbers(row[f"{key}_images"] for row in rows) for key in ("search", "test")}
    trained = _numbers(row["train_images"] for row in rows)
    text = f"{images['search']} search images, {images['test']} test images, {trained} for training"
    out.print(f"{text}; dense: {_range([row['dense_test_accuracy'] for row in rows])}% on test.")
    for command in result["next"]:
        plain(out, f"  {command}")


def show_comparison(result: Mapping[str, Any]) -> None:
    """Print the results of several runs, and where it was asked for, the comparison in pairs."""
    show_results(result)
    rows = result.get("paired")
    if not rows:
        return
    out = console()
    for run in dict.fromkeys(row["run_dir"] for row in rows):
        own = [row for row in rows if row["run_dir"] == run]
        plain(out, f"\nIn pairs: {run}")
        out.print(paired_table(own))
        seeds = ", ".join(map(str, own[0]["seeds"]))
        out.print(
            f"Mean over seeds {seeds} (lowest to highest), {own[0]['test_images']:,} test images; "
            "differences in points, with bootstrap 95% intervals over images and seeds.",
            style="dim",
        )
        out.print(
            "same weights: the chosen channels with the dense network's weights and the run's "
            "recovery.",
            style="dim",
        )


def paired_table(rows: Sequence[Row]) -> Table:
    """Return the table of one run's ``paired`` rows."""
    table = new_table("network", "agent")
    for name in ("accuracy %", f"from {rows[0]['baseline']}", "from dense"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous not in (None, row["network"]):
            table.add_section()
        mean = f"{percent(row['accuracy'])} ({_range(row['accuracies'])})"
        differences = _points(row["from_baseline"]), _points(row["from_dense"])
        name = NETWORKS[row["network"]] if previous != row["network"] else ""
        table.add_row(name, row["agent"], mean, *differences)
        previous = row["network"]
    return table


def _points(difference: Mapping[str, Any] | None) -> str:
    """Return a difference of accuracies in points, such as ``+1.20 [+0.80, +1.61]``."""
    if difference is None:
        return MISSING
    low, high = difference["interval"]
    return f"{100 * difference['mean']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    low, high = percent(min(known)), percent(max(known))
    return low if low == high else f"{low} to {high}"


def _numbers(values: Any) -> str:
    return ", ".join(f"{n:,}" for n in sorted(set(values)))
