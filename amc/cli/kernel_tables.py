"""``amc bench kernels`` as tables: speed-ups shape by shape, then what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amc.cli.tables import console, show_facts

Row = Mapping[str, Any]
SHORT = {
    "speedup_vs_dense": "vs\ndense",
    "least_vs_dense": "\nleast",
    "speedup_vs_torch_sparse": "vs torch\nsparse",
    "least_vs_torch_sparse": "\nleast",
    "speedup_vs_scipy": "vs\nscipy",
    "speedup_vs_onnx_runtime": "vs dense\nONNX RT",
    "speedup_vs_prepacked": "vs pre-\npacked",
    "speedup_vs_dense_gemv": "vs our\nGEMV",
    "speedup_vs_one_thread": "vs one\nthread",
    "fraction_of_peak": "% of\npeak",
    "fraction_of_roofline": "% of\nroofline",
}


def show_kernels(rows: Sequence[Row]) -> None:
    """Print a table of speed-ups over dense for each set and operation, and the summary."""
    from amc.bench_summary import summary

    threads = sorted({row["threads"] for row in rows})
    show_facts({"backend": rows[0]["backend"], "threads": threads, "rows": len(rows)})
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["operation"], row["threads"]), []).append(row)
    for (name, operation, count), group in groups.items():
        of = f"{count} thread{'s' if count > 1 else ''}"
        console().print(
            f"\n{name}, {operation}, {of}: how many times faster than the fastest dense form"
        )
        _show_shapes(group)
    facts = summary(rows)
    for operation in dict.fromkeys(mean["operation"] for mean in facts["means"]):
        console().print(f"\n{operation}: geometric means over shapes")
        _show_means([mean for mean in facts["means"] if mean["operation"] == operation])
    if facts["headlines"]:
        console().print()
        show_facts(
            [
                {
                    **one,
                    "geometric_mean": _times(one["geometric_mean"]),
                    "least": _times(one["least"]),
                }
                for one in facts["headlines"]
            ]
        )
    if facts["crossover"]:
        meets = facts["crossover"]
        console().print(
            f"Unstructured products are as fast as dense {meets['relation']} "
            f"{100 * meets['sparsity']:.0f}% sparsity (geometric mean)."
        )


def _show_shapes(rows: Sequence[Row]) -> None:
    from amc.bench_plots import pattern_label

    patterns = list(dict.fromkeys(map(pattern_label, rows)))
    table = _table(["M x K x N"], ["dense\nus", *(p.replace(" ", "\n", 1) for p in patterns)])
    shapes: dict[str, list[Row]] = {}
    for row in rows:
        shapes.setdefault(_shape(row), []).append(row)
    for shape, group in shapes.items():
        cells = {pattern_label(row): _times(row["speedup_vs_dense"]) for row in group}
        dense = f"{1e6 * group[0]['dense_seconds']:.4g}"
        table.add_row(shape, dense, *(cells.get(pattern, "-") for pattern in patterns))
    console().print(table)


def _shape(row: Row) -> str:
    product = " x ".join(map(str, row["shape"]))
    conv = row.get("conv")
    if conv is None:
        return product
    stride = f"/{conv['stride']}" if conv["stride"] > 1 else ""
    return f"{product} ({conv['kernel']}x{conv['kernel']}{stride})"


def _show_means(means: Sequence[Row]) -> None:
    from amc.bench_plots import pattern_label

    present = [name for name in SHORT if any(mean[name] is not None for mean in means)]
    table = _table(["set", "pattern"], ["threads", "shapes", *(SHORT[name] for name in present)])
    for mean in means:
        cells = [
            "-"
            if mean[name] is None
            else f"{100 * mean[name]:.0f}"
            if name.startswith("fraction")
            else _times(mean[name])
            for name in present
        ]
        numbers = (str(mean["threads"]), str(mean["shapes"]), *cells)
        table.add_row(mean["set"], pattern_label(mean), *numbers)
    console().print(table)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _table(left: Sequence[str], right: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
