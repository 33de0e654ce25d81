"""Pictures of ``amc bench``. Drawn without a display; each function writes a PNG."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amc.kernels.patterns import KEEP
from amc.plots import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save


def kernel_speedups(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw how much faster than the fastest dense form each kernel is, on every shape.

    ``rows`` are those of ``amc.bench_kernels.kernels``. A point is a shape, a bar across them their
    geometric mean; the dashed line is dense.
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(_label(row), []).append(float(row["speedup_vs_dense"]))
    figure, axes = new_figure(title, height=max(3.0, 1.4 + 0.28 * len(groups)))
    for place, (label, speedups) in enumerate(groups.items()):
        colour = ORANGE if "2:4" in label or "1:4" in label else BLUE
        axes.scatter(
            speedups, [place] * len(speedups), s=22, color=colour, alpha=0.55, linewidths=0
        )
        mean = float(np.exp(np.mean(np.log(speedups))))
        axes.plot([mean, mean], [place - 0.36, place + 0.36], color=colour, linewidth=2.4)
        axes.text(
            1.01,
            place,
            f"{mean:.2f}x",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
        )
    axes.axvline(1.0, color=RED, linestyle="--", linewidth=1.0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_yticks(range(len(groups)), list(groups), fontsize=8)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(axis="x", color=GREY, alpha=0.3)
    axes.set_xlabel("speed-up over the fastest dense form (geometric mean at the right)")
    save(figure, path)


def predictions(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw predicted against measured latency of whole networks, with bands of 5% and 10%.

    ``rows`` are those of ``amc.bench_latency.latency``.
    """
    figure, axes = new_figure(title, height=5.2)
    measured = np.array([1e3 * float(row["measured_latency_s"]) for row in rows])
    ends = np.array([0.8 * measured.min(), 1.2 * measured.max()])
    for share, shade in ((0.10, 0.12), (0.05, 0.2)):
        axes.fill_between(ends, ends * (1 - share), ends * (1 + share), color=GREY, alpha=shade)
    axes.plot(ends, ends, color=RED, linestyle="--", linewidth=1.0)
    colours = itertools.cycle((BLUE, ORANGE, GREEN))
    for name in dict.fromkeys(str(row["network"]) for row in rows):
        mine = [row for row in rows if row["network"] == name]
        axes.scatter(
            [1e3 * float(row["measured_latency_s"]) for row in mine],
            [1e3 * float(row["predicted_latency_s"]) for row in mine],
            s=30,
            color=next(colours),
            alpha=0.75,
            linewidths=0,
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured latency of one batch (ms)")
    axes.set_ylabel("predicted latency (ms)")
    axes.legend(fontsize=8, loc="upper left")
    save(figure, path)


def pattern_label(row: Mapping[str, Any]) -> str:
    """Return a row's pattern with its sparsity, where it sets none itself, and float16 values."""
    values = " f16" if row.get("values") == "float16" else ""
    pattern = str(row["pattern"])
    sparsity = "" if pattern in KEEP else f" {100 * row['sparsity']:.0f}%"
    return f"{pattern}{sparsity}{values}"


def _label(row: Mapping[str, Any]) -> str:
    threads = f" ({row['threads']} threads)" if row["threads"] > 1 else ""
    return f"{row['set']} {row['operation']}: {pattern_label(row)}{threads}"
