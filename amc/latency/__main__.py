"""``python -m amc.latency TABLE OPS.json``: predicted latencies, with numpy alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from amc.latency.errors import read_json, refused
from amc.latency.operation import Operation
from amc.latency.table import MOST_BYTES, LatencyTable


def predictions(table: LatencyTable, path: Path) -> tuple[list[dict[str, Any]], float]:
    """Return each operation of the JSON file with its ``latency_s``, and those of all in a row.

    Raises at the first unknown one.

    The file holds a list of operations, or an object whose ``operations`` are one.
    """
    try:
        value = read_json(path, "operations", MOST_BYTES, "write it again")
    except (OSError, ValueError) as error:
        raise refused(f"operations {str(path)!r} are not readable JSON: {error}") from None
    listed = value.get("operations") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise refused(
            f"operations {str(path)!r} must be a list, or an object with `operations`; see "
            "docs/latency.md"
        )
    rows, ops = [], []
    for number, entry in enumerate(listed):
        try:
            ops.append(Operation.from_json(entry))
            rows.append({**entry, "latency_s": table.latency(ops[-1])})
        except ValueError as error:
            raise refused(f"operation {number} of {str(path)!r}: {error}") from None
    return rows, table.network_latency(ops)


def main(arguments: list[str] | None = None) -> int:
    """Print a latency an operation and that of all; return the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m amc.latency", description=__doc__)
    parser.add_argument("table", type=Path, help="a table that `amc measure` wrote")
    parser.add_argument("operations", type=Path, help="a JSON file; see docs/latency.md")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        table = LatencyTable.load(options.table)
        rows, total = predictions(table, options.operations)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        facts = {"backend": table.backend, "noisy": table.is_noisy, "latency_s": total}
        print(json.dumps({**facts, "operations": rows}, indent=2))
        return 0
    for row in rows:
        operation = {name: value for name, value in row.items() if name != "latency_s"}
        print(f"{row['latency_s']:.9f} s  {Operation.from_json(operation)}")
    noisy = ", a noisy table" if table.is_noisy else ""
    print(f"{total:.9f} s  together, on {table.backend}{noisy}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
