"""Pictures of a search, from plain data. Drawn without a display; each function writes a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from amc import pareto
from amc.files import write_bytes

BLUE, GREY, ORANGE, RED, GREEN = "#1f5fa8", "#9aa3ad", "#d9822b", "#b3261e", "#2e7d4f"
DPI = 130
LOWEST_SHARE = (
    0.1  # of the points may fall below the picture, so that a few bad ones do not flatten it
)
MIN_FOR_CUT = 20
LEGEND_CHARACTERS = 96  # that fit beside each other


class Point(TypedDict):
    """One evaluation: predicted latency, accuracy as a fraction, and whether it met the budget."""

    latency_ms: float
    accuracy: float
    feasible: bool


def tradeoff(
    path: Path,
    points: Sequence[Point],
    winner: Point | None,
    dense: Point | None,
    budget: float | None,
    title: str,
) -> None:
    """Draw accuracy against predicted latency: all evaluations, their front, budget and winner.

    ``budget`` is the bound in ms, or ``None`` where the budget is not a latency.
    """
    figure, axes = new_figure(title, height=4.6)
    _evaluations(axes, points)
    if budget is not None:
        budget_line(axes, budget)
    for point, marker, colour, label in (
        (dense, "D", GREEN, "dense"),
        (winner, "*", ORANGE, "winner"),
    ):
        if point is not None:
            text = f"{label}: {100 * point['accuracy']:.1f} %, {point['latency_ms']:.3g} ms"
            mark(axes, point, marker, colour, text)
    marked = [point for point in (winner, dense) if point is not None]
    below = accuracy_axis(axes, [p["accuracy"] for p in (*points, *marked)])
    if below:
        note = f"{below} evaluations lie below"
        axes.text(0.01, 0.015, note, transform=axes.transAxes, fontsize=8, color="#5b6570")
    axes.set_xlabel("predicted latency of one batch (ms)")
    axes.set_ylabel("search accuracy")
    legend_below(figure, axes)
    save(figure, path)


def _evaluations(axes: Axes, points: Sequence[Point]) -> None:
    """Draw every evaluation, and the front of them all."""
    for feasible, colour, label in ((True, BLUE, "within budget"), (False, GREY, "over budget")):
        chosen = [p for p in points if p["feasible"] is feasible]
        if chosen:
            axes.scatter(
                [p["latency_ms"] for p in chosen],
                [p["accuracy"] for p in chosen],
                s=26,
                color=colour,
                alpha=0.65,
                linewidths=0,
                label=f"{label} ({len(chosen)})",
            )
    best = front_of(points)
    if best:
        axes.step(
            [p["latency_ms"] for p in best],
            [p["accuracy"] for p in best],
            where="post",
            color=BLUE,
            linewidth=1.2,
            marker="o",
            markersize=8,
            markerfacecolor="none",
            label="Pareto front",
        )


def budget_line(axes: Axes, budget_ms: float) -> None:
    """Draw the bound of a latency budget."""
    axes.axvline(budget_ms, color=RED, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"budget {budget_ms:.3g} ms",
        (budget_ms, 0.02),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        color=RED,
        rotation=90,
        va="bottom",
        fontsize=9,
    )


def mark(axes: Axes, point: Point, marker: str, colour: str, label: str) -> None:
    """Draw one point that stands out."""
    axes.scatter(
        [point["latency_ms"]],
        [point["accuracy"]],
        marker=marker,
        s={"*": 190, "D": 60}.get(marker, 110),
        color=colour,
        edgecolors="black",
        linewidths=0.7,
        zorder=5,
        label=label,
    )


def keep_ratios(path: Path, ratios: Mapping[str, float], title: str) -> None:
    """Draw the fraction of channels that each site keeps, in the order of the sites."""
    figure, axes = new_figure(title, height=max(2.2, 0.9 + 0.27 * len(ratios)))
    places = range(len(ratios))
    axes.barh(places, [1.0] * len(ratios), color="#eceff2", height=0.72)
    axes.barh(places, list(ratios.values()), color=BLUE, height=0.72)
    for place, ratio in zip(places, ratios.values(), strict=True):
        inside = ratio > 0.12
        axes.text(
            ratio - 0.01 if inside else ratio + 0.01,
            place,
            f"{ratio:.2f}",
            va="center",
            ha="right" if inside else "left",
            fontsize=8,
            color="white" if inside else "black",
        )
    axes.set_yticks(list(places), list(ratios), fontsize=8)
    axes.set_ylim(len(ratios) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(visible=False)
    axes.set_xlabel("keep ratio (fraction of channels kept)")
    save(figure, path)


def front_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats on both axes, by rising latency."""
    return pareto.pareto_front(points, lambda p: pareto.Point(p["latency_ms"], p["accuracy"]))


def new_figure(title: str, height: float) -> tuple[Figure, Axes]:
    """Return an empty picture, ``height`` inches high, and its axes."""
    figure, (axes,) = new_panels(title, height, 1)
    return figure, axes


def new_panels(title: str, height: float, count: int) -> tuple[Figure, list[Axes]]:
    """Return a picture of ``count`` axes below each other, each ``height`` inches high."""
    figure = Figure(figsize=(7.6, count * height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    panels[0].set_title(title, fontsize=11, loc="left", parse_math=False)
    for axes in panels:
        axes.grid(visible=True, color=GREY, alpha=0.35, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def accuracy_axis(axes: Axes, values: Sequence[float]) -> int:
    """Scale the vertical axis to ``values``; return how many of them fall below the picture."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    if not values:
        return 0
    ordered = sorted(values)
    cut = int(LOWEST_SHARE * len(ordered)) if len(ordered) >= MIN_FOR_CUT else 0
    margin = max(0.002, 0.08 * (ordered[-1] - ordered[cut]))
    lower = ordered[cut] - margin
    axes.set_ylim(lower, ordered[-1] + margin)
    return sum(value < lower for value in values)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend of ``axes`` below the picture, in as many columns as its labels leave."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(3, LEGEND_CHARACTERS // max(map(len, labels), default=1)))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def save(figure: Figure, path: Path) -> None:
    """Write the picture to ``path``, all or nothing; its folder is made."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    write_bytes(path, drawn.getvalue())
