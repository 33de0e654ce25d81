"""Results as tables on a terminal. Every function takes what ``--json`` would print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amc.printable import printable
from amc.result_text import (
    LEFT_COLUMNS,
    MISSING,
    RIGHT_COLUMNS,
    Row,
    cells,
    count,
    dense_cells,
    legend,
    milliseconds,
    percent,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 120


def console() -> Console:
    """Return the console of standard output, wide enough for a table where that is a file."""
    from rich.console import Console
    from rich.text import Text

    class Escaping(Console):
        """A console that no text of a file can give orders to."""

        def render_str(self, text: str, **options: Any) -> Text:
            """Return ``text`` to be shown, its control characters escaped."""
            return super().render_str(printable(text, keep="\n"), **options)

    out = Escaping(highlight=False, markup=False)
    if out.is_terminal:
        return out
    return Escaping(highlight=False, markup=False, width=WIDTH_WITHOUT_TERMINAL)


def show_results(result: Mapping[str, Any]) -> None:
    """Print one line an agent and seed, the dense network last, then plans and next commands."""
    out, rows = console(), result["rows"]
    out.print(results_table(rows))
    for line in legend(rows):
        out.print(line, style="dim")
    plans = [row for row in rows if row.get("plan")]
    if plans:
        out.print("\nPlans")
        for row in plans:
            plain(out, f"  {row['agent']} seed {row['seed']}: {row['plan']}")
    for key in ("page", "picture"):
        if result.get(key):
            plain(out, f"\n{key.capitalize()}: {result[key]}")
    if result.get("run_dir"):
        plain(out, f"\nRun folder: {result['run_dir']}")
    if result.get("next"):
        out.print("\nNext")
        for command in result["next"]:
            plain(out, f"  {command}")


def results_table(rows: Sequence[Row]) -> Table:
    """Return the table of a search's or a comparison's rows (objects of ``summary.json``)."""
    several = len({row.get("run_dir") for row in rows}) > 1
    table = new_table(*(["run"] if several else []), *LEFT_COLUMNS)
    for name in RIGHT_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*([_last(row["run_dir"])] if several else []), *cells(row))
    dense = {(row.get("run_dir"), str(row["dense"])): row for row in rows if row.get("dense")}
    if dense:
        table.add_section()
    for row in dense.values():
        run = [_last(row["run_dir"])] if several else []
        table.add_row(*run, *dense_cells(row["dense"]), style="dim")
    return table


def show_inspection(result: Mapping[str, Any]) -> None:
    """Print sites, layers that are left out and why, dense costs and smallest reachable budgets."""
    out = console()
    table = new_table("site", "kind")
    for name in ("channels", "smallest", "widths", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("coupled layers", overflow="fold")
    for site in result["sites"]:
        widths, smallest = site["widths"], str(site["widths"][0])
        unit = site.get("unit", 1)
        channels = f"{site['channels']} x {unit}" if unit > 1 else str(site["channels"])
        if site.get("decides") == "weights":
            channels, smallest = "weights", f"{widths[0] / 10:g}%"
        elif site.get("decides") == "block":
            channels = "block"
        numbers = (channels, smallest, str(len(widths)), count(site["macs"]))
        table.add_row(site["name"], site["kind"], *numbers, ", ".join(site["layers"]))
    out.print(f"Task {result['task']}: {len(result['sites'])} sites")
    out.print(table)
    if result.get("excluded"):
        out.print("\nNot compressed")
        for layer, reason in result["excluded"].items():
            plain(out, f"  {layer}: {reason}")
    out.print(_reach_table(result["dense"], result["smallest"]))
    batch, backend = result.get("batch_size", MISSING), result.get("backend", MISSING)
    plain(out, f"Latency of one batch of {batch}; kernel backend: {backend}.")


def _reach_table(dense: Row, smallest: Row) -> Table:
    table = new_table("budget")
    for name in ("dense", "smallest reachable"):
        table.add_column(name, justify="right", no_wrap=True)
    dense_cells = {
        "predicted_latency": f"{milliseconds(dense.get('predicted_latency_s'))} ms",
        "macs": count(dense.get("macs")),
        "params": count(dense.get("params")),
        "weight_bytes": f"{count(dense.get('weight_bytes'))}B",
    }
    for key, cell in dense_cells.items():
        reach = smallest.get(key)
        table.add_row(key, cell, MISSING if reach is None else f"{reach:.3f} of dense")
    return table


def show_finetuning(report: Mapping[str, Any]) -> None:
    """Print what the compressed network reaches with which weights, the stages, and where it is."""
    out = console()
    table = new_table("weights")
    for name in ("search\nacc. %", "test\nacc. %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report["accuracies"]:
        scores = percent(row["search_accuracy"]), percent(row["test_accuracy"])
        table.add_row(row["weights"], *scores, style="dim" if row["weights"] == "dense" else None)
    out.print(table)
    images = f"{report['search_images']:,} search images, {report['test_images']:,} test images"
    out.print(f"{images}, {report['train_images']:,} training images.", style="dim")
    for stage in report["stages"]:
        text = f"{stage['level']:.3g} of the removal, {stage['steps']} of {stage['planned_steps']} "
        out.print(f"Stage: {text}steps, weights of step {stage['kept_step']}.", style="dim")
    for note in report["notes"]:
        plain(out, f"note: {note}")
    plain(out, f"\nPlan: {report['plan']}\n\nNext")
    for command in report["next"]:
        plain(out, f"  {command}")


def show_facts(result: Any) -> None:
    """Print a flat list of facts, one a line; lists of objects become tables."""
    out = console()
    if isinstance(result, Mapping):
        _show_mapping(out, result, indent=0)
    elif isinstance(result, list) and result and isinstance(result[0], Mapping):
        out.print(_plain_table(result))
    else:
        plain(out, str(result))


def _show_mapping(out: Console, facts: Mapping[str, Any], indent: int) -> None:
    pad = " " * indent
    width = max((len(str(key)) for key in facts), default=0)
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            plain(out, f"{pad}{key}")
            _show_mapping(out, value, indent + 2)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            plain(out, f"{pad}{key}")
            out.print(_plain_table(value))
        else:
            plain(out, f"{pad}{str(key).ljust(width)}  {fact(value)}")


def _plain_table(rows: Sequence[Row]) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = new_table(*keys)
    for row in rows:
        table.add_row(*(fact(row.get(key)) for key in keys))
    return table


def fact(value: Any) -> str:
    """Return a value as text: numbers with six significant digits, nothing as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(fact(item) for item in value) or MISSING
    return str(value)


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def new_table(*left_columns: str) -> Table:
    """Return an empty table whose first columns hold text, which may be folded."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in left_columns:
        table.add_column(name, overflow="fold")
    return table


def plain(out: Console, text: str) -> None:
    """Print a line that is not broken where the console ends, so that it can be copied."""
    out.print(text, soft_wrap=True)
