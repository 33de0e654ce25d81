"""How ``amc bench`` shows its rows to people, but for kernels, which have a file of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amc.cli.tables import show_facts


def show_latency(rows: list[dict[str, Any]]) -> None:
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


def show_blocks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each network's facts as a block."""
    for row in rows:
        show_facts(row)
        print()


def show_criteria(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line a criterion, and the layers at which they are out of order."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("network", "pattern", "criterion", "median", "largest", "out of order"):
        table.add_column(name, justify="right" if name in ("median", "largest") else "left")
    for row in rows:
        errors = [f"{100 * row[key]:.2f}%" for key in ("median", "largest")]
        named = [row["network"], f"{row['pattern']} {row['sparsity']:g}", row["criterion"]]
        table.add_row(*named, *errors, ", ".join(row["out_of_order"]))
    Console().print(table)
