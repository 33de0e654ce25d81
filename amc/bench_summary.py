"""What the rows of ``amc bench kernels`` say together: means over shapes, and the crossover."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from amc.kernels.patterns import KEEP

Row = Mapping[str, Any]

MEANS = (
    "speedup_vs_dense",
    "speedup_vs_torch_sparse",
    "speedup_vs_scipy",
    "speedup_vs_onnx_runtime",
    "speedup_vs_prepacked",
    "speedup_vs_dense_gemv",
    "speedup_vs_one_thread",
    "fraction_of_peak",
    "fraction_of_roofline",
)
UNFOLDED = {"speedup_vs_scipy": "speedup_vs_scipy_unfold"}  # of convolutions

# Figures that one looks for first: what, of which rows, and the field.
HEADLINES: tuple[tuple[str, Callable[[Row], bool], str], ...] = (
    (
        "2:4 products, N >= 16, over dense",
        lambda r: _is(r, "table", "spmm", "2:4") and r["shape"][2] >= 16,
        "speedup_vs_dense",
    ),
    (
        "2:4 products, N >= 16, over ONNX Runtime's dense",
        lambda r: _is(r, "table", "spmm", "2:4") and r["shape"][2] >= 16,
        "speedup_vs_onnx_runtime",
    ),
    (
        "unstructured products over torch.sparse",
        lambda r: _is(r, "table", "spmm", "csr"),
        "speedup_vs_torch_sparse",
    ),
    (
        "2:4 GEMV, float32, over our dense GEMV",
        lambda r: _is(r, "table", "gemv", "2:4") and r["values"] == "float32",
        "speedup_vs_dense_gemv",
    ),
    (
        "2:4 convolutions k x k, 64 channels or more, over oneDNN",
        lambda r: _is(r, "table", "conv", "2:4") and r["shape"][0] >= 64,
        "speedup_vs_dense",
    ),
    (
        "2:4 convolutions 3x3 of resnet20 over oneDNN",
        lambda r: (
            _is(r, "zoo", "conv", "2:4")
            and r["conv"]["kernel"] == 3
            and "resnet20" in r["networks"]
        ),
        "speedup_vs_dense",
    ),
)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return ``means`` (a row a group), ``headlines`` and ``crossover`` of a benchmark's rows."""
    return {
        "means": means(rows),
        "headlines": headlines(rows),
        "crossover": crossover(rows),
    }


def means(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return geometric means over shapes of each set, operation, pattern, sparsity and threads.

    ``least_vs_dense`` and ``least_vs_torch_sparse`` are the least of any shape.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["set"], row["operation"], row["pattern"], _asked(row))
        groups.setdefault((*key, row.get("values", "float32"), row["threads"]), []).append(row)
    names = ("set", "operation", "pattern", "sparsity", "values", "threads")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "shapes": len(group),
            **{name: _mean(_known(group, name)) for name in MEANS},
            "least_vs_dense": min(_known(group, "speedup_vs_dense")),
            "least_vs_torch_sparse": min(_known(group, "speedup_vs_torch_sparse"), default=None),
        }
        for key, group in groups.items()
    ]


def headlines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return geometric mean, least and number of shapes of each of ``HEADLINES`` that was timed.

    On one thread, but for what two threads gain where there are 256 rows or more.
    """
    found = []
    for what, belongs, name in HEADLINES:
        found.append((what, [r for r in rows if r["threads"] == 1 and belongs(r)], name))
    for count in sorted({row["threads"] for row in rows} - {1}):
        wide = [r for r in rows if r["threads"] == count and r["shape"][0] >= 256]
        found.append((f"{count} threads over one, M >= 256", wide, "speedup_vs_one_thread"))
    return [
        {"what": what, "geometric_mean": _mean(values), "least": min(values), "rows": len(values)}
        for what, group, name in found
        if (values := _known(group, name))
    ]


def crossover(rows: Iterable[Row]) -> dict[str, Any] | None:
    """Return the sparsity where unstructured products of the table are as fast as dense.

    ``sparsity`` is interpolated between geometric means (their logarithms); ``relation`` is "at",
    or, where no mean lies on the other side, "at most" or "above". ``None`` without such rows.
    """
    known = [
        (mean["sparsity"], float(np.log(mean["speedup_vs_dense"])))
        for mean in means(r for r in rows if _is(r, "table", "spmm", "csr") and r["threads"] == 1)
    ]
    if not known:
        return None
    known.sort()
    faster = [at for at, (_, gain) in enumerate(known) if gain >= 0]
    if not faster:
        return {"sparsity": known[-1][0], "relation": "above"}
    if faster[0] == 0:
        return {"sparsity": known[0][0], "relation": "at most"}
    (low, loss), (high, gain) = known[faster[0] - 1], known[faster[0]]
    return {"sparsity": low + (high - low) * -loss / (gain - loss), "relation": "at"}


def _is(row: Row, group: str, operation: str, pattern: str) -> bool:
    return bool(row["set"] == group and row["operation"] == operation and row["pattern"] == pattern)


def _asked(row: Row) -> float:
    """Return the sparsity that was asked for; small weights come only near it."""
    pattern = row["pattern"]
    return 1 - KEEP[pattern] / 4 if pattern in KEEP else float(round(row["sparsity"], 2))


def _known(rows: Iterable[Row], name: str) -> list[float]:
    values = [row.get(name, row.get(UNFOLDED.get(name, ""))) for row in rows]
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.exp(np.mean(np.log(values)))) if values else None
