"""How ``amc evaluate`` shows a plan's layers to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amc.cli.tables import console, show_facts
from amc.result_text import milliseconds


def show_evaluation(facts: Mapping[str, Any]) -> None:
    """Print the facts, then a line a layer with its predicted and measured latency."""
    from rich import box
    from rich.table import Table

    show_facts({name: value for name, value in facts.items() if name not in ("layers", "warning")})
    if not facts.get("layers"):
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("layer", "kernel"):
        table.add_column(name)
    for name in ("predicted ms", "measured ms"):
        table.add_column(name, justify="right")
    for row in facts["layers"]:
        times = (milliseconds(row[f"{kind}_latency_s"]) for kind in ("predicted", "measured"))
        table.add_row(row["layer"], row["kernel"], *times)
    console().print(table)
