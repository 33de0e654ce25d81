"""Pictures of a search, from plain data. Drawn without a display; each function writes a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

BLUE, GREY, ORANGE, RED, GREEN = "#1f5fa8", "#9aa3ad", "#d9822b", "#b3261e", "#2e7d4f"
DPI = 130
LOWEST_SHARE = (
    0.1  # of the points may fall below the picture, so that a few bad ones do not flatten it
)
MIN_FOR_CUT = 20


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
    front = pareto_front(points)
    if front:
        axes.step(
            [p["latency_ms"] for p in front],
            [p["accuracy"] for p in front],
            where="post",
            color=BLUE,
            linewidth=1.2,
            marker="o",
            markersize=8,
            markerfacecolor="none",
            label="Pareto front",
        )
    if budget is not None:
        axes.axvline(budget, color=RED, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"budget {budget:.3g} ms",
            (budget, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            color=RED,
            rotation=90,
            va="bottom",
            fontsize=9,
        )
    for point, marker, colour, label in (
        (dense, "D", GREEN, "dense"),
        (winner, "*", ORANGE, "winner"),
    ):
        if point is not None:
            axes.scatter(
                [point["latency_ms"]],
                [point["accuracy"]],
                marker=marker,
                s=190 if marker == "*" else 60,
                color=colour,
                edgecolors="black",
                linewidths=0.7,
                zorder=5,
                label=f"{label}: {100 * point['accuracy']:.1f} %, {point['latency_ms']:.3g} ms",
            )
    marked = [point for point in (winner, dense) if point is not None]
    below = _accuracy_axis(axes, [p["accuracy"] for p in (*points, *marked)])
    if below:
        note = f"{below} evaluations lie below"
        axes.text(0.01, 0.015, note, transform=axes.transAxes, fontsize=8, color="#5b6570")
    axes.set_xlabel("predicted latency of one batch (ms)")
    axes.set_ylabel("search accuracy")
    _legend_below(figure, axes)
    save(figure, path)


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


def progress(path: Path, scores: Mapping[str, Sequence[float | None]], title: str) -> None:
    """Draw the best accuracy so far against the number of evaluations, a line for each agent.

    ``scores[agent][i]`` is the accuracy of evaluation ``i + 1``, ``None`` where it missed the
    budget.
    """
    figure, axes = new_figure(title, height=4.2)
    shown: list[float] = []
    styles = ("-", "--", "-.", ":")
    for index, (agent, values) in enumerate(scores.items()):
        best = best_so_far(values)
        steps = [i for i, value in enumerate(best, start=1) if value is not None]
        heights = [value for value in best if value is not None]
        shown += heights
        axes.step(
            steps,
            heights,
            where="post",
            label=f"{agent}: {100 * heights[-1]:.2f} %" if heights else f"{agent}: none feasible",
            linewidth=1.8,
            linestyle=styles[index % len(styles)],
        )
        if heights:
            axes.plot(steps[-1], heights[-1], "o", markersize=4, color=axes.lines[-1].get_color())
    _accuracy_axis(axes, shown)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("evaluations")
    axes.set_ylabel("best search accuracy within budget")
    axes.legend(loc="lower right", fontsize=9)
    save(figure, path)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats on both axes, by rising latency."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p["latency_ms"], -p["accuracy"])):
        if not front or point["accuracy"] > front[-1]["accuracy"]:
            front.append(point)
    return front


def best_so_far(scores: Sequence[float | None]) -> list[float | None]:
    """Return the highest score up to each position, ``None`` before the first one."""
    best: float | None = None
    history: list[float | None] = []
    for score in scores:
        if score is not None and (best is None or score > best):
            best = score
        history.append(best)
    return history


def new_figure(title: str, height: float) -> tuple[Figure, Axes]:
    """Return an empty picture, ``height`` inches high, and its axes."""
    figure = Figure(figsize=(7.6, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(visible=True, color="#e3e6ea", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _accuracy_axis(axes: Axes, values: Sequence[float]) -> int:
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


def _legend_below(figure: Figure, axes: Axes) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )


def save(figure: Figure, path: Path) -> None:
    """Write the picture to ``path``; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
