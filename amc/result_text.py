"""The rows of ``summary.json`` as text: what a terminal's table and a page's have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
MISSING = "-"
LEFT_COLUMNS = ("agent", "recovery")
RIGHT_COLUMNS = (
    *("seed", "eval", "search\nacc. %", "test\nacc. %", "tuned\nacc. %", "MACs", "params"),
    *("pred.\nms", "meas.\nms", "speed\nup"),
)
NOISY = "~ noisy: the spread of this measurement is too wide to rely on."


def legend(rows: Sequence[Row]) -> list[str]:
    """Return failures of searches, then what columns stand for: images, batch, kernels, noise."""
    counts = {
        key: ", ".join(f"{n:,}" for n in sorted({row[key] for row in rows if row.get(key)}))
        for key in ("search_images", "test_images", "batch_size")
    }
    steps = sorted({row.get("finetune_steps") or 0 for row in rows})
    alike = ", the same for all" if len(steps) == 1 else ", not the same for all"
    listed = ", ".join(map(str, steps))
    tuned = f"; tuned: after {listed} steps of fine-tuning{alike}" if any(steps) else ""
    tested = counts["test_images"] or "no"
    backends = " | ".join(sorted({row.get("backend") or "not on record" for row in rows}))
    return [
        *(row["failure"] for row in rows if row.get("failure")),
        f"{counts['search_images']} search images, {tested} test images{tuned}.",
        f"pred., meas.: predicted and measured latency of one batch of {counts['batch_size']}.",
        f"Kernel backend: {backends}.",
        *([NOISY] if any(row.get("noisy") for row in rows) else []),
    ]


def cells(row: Row) -> list[str]:
    """Return a search's row, a text for each of ``LEFT_COLUMNS`` and ``RIGHT_COLUMNS``."""
    return [
        str(row["agent"]),
        str(row.get("recovery", MISSING)),
        str(row["seed"]),
        str(row["evaluations"]),
        percent(row.get("search_accuracy")),
        percent(row.get("test_accuracy")),
        percent(row.get("finetuned_test_accuracy")),
        count(row.get("macs")),
        count(row.get("params")),
        milliseconds(row.get("predicted_latency_s")),
        milliseconds(row.get("measured_latency_s")) + ("~" if row.get("noisy") else ""),
        speed_up(row),
    ]


def dense_cells(dense: Row) -> list[str]:
    """Return the same for the dense network, the ``dense`` object of a row."""
    return [
        *("dense", MISSING, MISSING, MISSING),
        percent(dense.get("search_accuracy")),
        percent(dense.get("test_accuracy")),
        MISSING,
        count(dense.get("macs")),
        count(dense.get("params")),
        milliseconds(dense.get("predicted_latency_s")),
        milliseconds(dense.get("measured_latency_s")),
        "1.00x",
    ]


def percent(value: float | None) -> str:
    """Return a fraction as per cent, such as ``88.53``."""
    return MISSING if value is None else f"{100 * value:.2f}"


def milliseconds(value: float | None) -> str:
    """Return seconds as milliseconds with three significant digits, such as ``12.3``."""
    return MISSING if value is None else f"{1000 * value:#.3g}".rstrip(".")


def count(value: float | None) -> str:
    """Return a number in thousands, millions or billions, such as ``8.42M``."""
    if value is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def speed_up(row: Row) -> str:
    """Return measured dense latency over measured latency, such as ``1.93x``."""
    dense, own = (row.get("dense") or {}).get("measured_latency_s"), row.get("measured_latency_s")
    return f"{dense / own:.2f}x" if dense and own else MISSING
