"""The picture of ``amc search --explain``. Drawn without a display, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from amc.plots import BLUE, GREY, ORANGE, save

COLUMNS = 4


def error_and_latency(path: Path, sites: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw for every site its error and the network's latency against the site's width.

    ``sites`` are those of ``amc.explanation.explanation``. All panels share their axes' scales, so
    that sites can be compared; a site without an error curve has its latency alone.
    """
    columns = max(1, min(COLUMNS, len(sites)))
    rows = max(1, -(-len(sites) // columns))
    figure = Figure(figsize=(0.8 + 2.7 * columns, 1.1 + 1.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    errors = [e for site in sites for e in site["relative_error"] or ()]
    seconds = [s for site in sites for s in site["predicted_latency_s"]]
    for index, (panel, site) in enumerate(zip(panels, sites, strict=False)):
        right = panel.twinx()
        _panel(panel, right, site)
        panel.set_ylim(*_limits(0.0, max(errors, default=1.0)))
        right.set_ylim(*_limits(1e3 * min(seconds), 1e3 * max(seconds)))
        if index % columns:
            panel.tick_params(labelleft=False)
        if index % columns < columns - 1:
            right.tick_params(labelright=False)
    for panel in panels[len(sites) :]:
        panel.set_visible(False)
    lines = [Line2D([], [], color=colour, marker=".") for colour in (BLUE, ORANGE)]
    labels = ["relative error (left)", "predicted latency of one batch, ms (right)"]
    figure.legend(
        *(lines, labels),
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        title="against what is kept: channels, thousandths of weights, or the block",
        title_fontsize=9,
    )
    save(figure, path)


def _panel(left: Axes, right: Axes, site: Mapping[str, Any]) -> None:
    widths = site["widths"]
    left.set_title(site["name"], fontsize=9, parse_math=False)
    left.grid(visible=True, color=GREY, alpha=0.3)
    if site["relative_error"] is not None:
        left.plot(widths, site["relative_error"], color=BLUE, marker=".", linewidth=1.4)
    milliseconds = [1e3 * seconds for seconds in site["predicted_latency_s"]]
    right.plot(widths, milliseconds, color=ORANGE, marker=".", linewidth=1.4)
    for axes, colour in ((left, BLUE), (right, ORANGE)):
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", colors=colour)
        axes.spines["top"].set_visible(False)
    left.set_xlim(0, 1.05 * max(widths))
    left.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _limits(lowest: float, highest: float) -> tuple[float, float]:
    """Return an axis' ends, with some room at both."""
    room = 0.06 * (highest - lowest) or 0.05
    return lowest - room, highest + room
