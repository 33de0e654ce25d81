"""The charts of a comparison, for a light and a dark page. Drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc.comparison import Group
from amc.curve_plots import COLOURS
from amc.plots import (
    DPI,
    GREEN,
    Point,
    accuracy_axis,
    budget_line,
    front_of,
    legend_below,
    mark,
    new_panels,
)

Theme = Literal["light", "dark"]
INK: Final[dict[Theme, tuple[str, str]]] = {
    "light": ("#1b1f24", "#ffffff"),
    "dark": ("#dfe3e8", "#16191d"),
}
MARKS = ("*", "P", "X", "^", "v")
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
GROUNDS = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")


@dataclass(frozen=True)
class Series:
    """The evaluations within the budget of one group, and its winners, one a search.

    ``measured`` are the winners again, by measured latency and accuracy on the test split, where
    both are known.
    """

    label: str
    points: Sequence[Point]
    winners: Sequence[Point]
    measured: Sequence[Point]

    @staticmethod
    def of(group: Group) -> Series:
        """Return what there is to draw of a group."""
        points = [
            _point(e.cost.latency_s, e.score)
            for search in group.searches
            for e in search.within
            if e is not None
        ]
        rows = [search.row for search in group.searches]
        return Series(
            group.label,
            points,
            [
                _point(r["predicted_latency_s"], r["search_accuracy"])
                for r in rows
                if None not in (r.get("predicted_latency_s"), r["search_accuracy"])
            ],
            [p for row in rows if (p := measured_point(row)) is not None],
        )


def measured_point(row: Any) -> Point | None:
    """Return measured latency and test accuracy of a row or a ``dense`` object, if both are known.

    The accuracy is that after the short fine-tuning where there was one.
    """
    tuned = row.get("finetuned_test_accuracy")
    accuracy = row.get("test_accuracy") if tuned is None else tuned
    if row.get("measured_latency_s") is None or accuracy is None:
        return None
    return _point(row["measured_latency_s"], accuracy)


def _point(latency_s: float, accuracy: float) -> Point:
    return {"latency_ms": 1e3 * latency_s, "accuracy": accuracy, "feasible": True}


def tradeoffs(
    title: str,
    series: Sequence[Series],
    dense: Sequence[Point],
    dense_measured: Sequence[Point],
    budgets_ms: Sequence[float],
) -> Figure:
    """Return search accuracy against predicted latency and, where measured, test against measured.

    A group has a colour, from the seventh on with another mark: the front of all its evaluations is
    a line, its winners are the marks.
    """
    measured = any(one.measured for one in series)
    figure, panels = new_panels(title, 4.4, 2 if measured else 1)
    looks = cycle((colour, marker) for marker in MARKS for colour in COLOURS)
    for one, (colour, marker) in zip(series, looks, strict=False):
        front = front_of(one.points)
        panels[0].step(
            [p["latency_ms"] for p in front],
            [p["accuracy"] for p in front],
            where="post",
            color=colour,
            marker=".",
            linewidth=1.2,
        )
        _winners(panels[0], one.winners, marker, colour, one.label)
        if measured:
            _winners(panels[1], one.measured, marker, colour, one.label)
    for axes, points in zip(panels, (dense, dense_measured), strict=False):
        for place, point in enumerate(points):
            mark(axes, point, "D", GREEN, "dense" if place == 0 else "")
    for budget in budgets_ms:
        budget_line(panels[0], budget)
    shown = [p["accuracy"] for one in series for p in (*front_of(one.points), *one.winners)]
    accuracy_axis(panels[0], [*shown, *(p["accuracy"] for p in dense)])
    panels[0].tick_params(labelbottom=True)
    panels[0].set_xlabel("predicted latency of one batch (ms)")
    panels[0].set_ylabel("search accuracy")
    if measured:
        reached = [p["accuracy"] for one in series for p in one.measured]
        accuracy_axis(panels[1], [*reached, *(p["accuracy"] for p in dense_measured)])
        panels[1].set_xlabel("measured latency of one batch (ms)")
        panels[1].set_ylabel("test accuracy, fine-tuned if at all")
    legend_below(figure, panels[0])
    return figure


def _winners(axes: Axes, points: Sequence[Point], marker: str, colour: str, label: str) -> None:
    for place, point in enumerate(points):
        mark(axes, point, marker, colour, label if place == 0 else "")


def themed_png(draw: Callable[[], Figure], theme: Theme) -> bytes:
    """Return the picture that ``draw`` makes as PNG, in the colours of ``theme``."""
    ink, paper = INK[theme]
    settings: dict[Any, str] = {
        **dict.fromkeys(INKED, ink),
        **dict.fromkeys(GROUNDS, paper),
    }
    with matplotlib.rc_context(settings):
        figure = draw()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
