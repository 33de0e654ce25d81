"""Learning curves as pictures: best so far against evaluations, with the spread over searches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amc.learning_curves import Spread
from amc.plots import accuracy_axis, legend_below, new_panels

# Okabe and Ito's colours, which the colour-blind can tell apart, on light and on dark grounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
LEGEND_LINE_INCHES = 0.2
QUARTILES_FROM = 5  # searches; the quartiles of fewer are hardly more than two of them


def learning_curves(
    title: str, scores: Mapping[str, Spread], rewards: Mapping[str, Spread] | None = None
) -> Figure:
    """Return the best score so far against evaluations, a line for each agent or label.

    The line is the median over its searches, the light band reaches from the lowest to the highest
    of them, and from ``QUARTILES_FROM`` searches on a darker one over the middle half. Give
    ``rewards`` where they are not the scores: they get a panel of their own.
    """
    height = 4.0 + LEGEND_LINE_INCHES * len(scores)
    figure, panels = new_panels(title, height, 1 if rewards is None else 2)
    shown = _draw(panels[0], scores, as_percent=True)
    accuracy_axis(panels[0], shown)
    panels[0].set_ylabel("best search accuracy within budget")
    if rewards is not None:
        _draw(panels[1], rewards, as_percent=False)
        panels[1].set_ylabel("best reward within budget")
    most = max((spread.searches for spread in scores.values()), default=1)
    bands = "; line: median, band: lowest to highest search" if most > 1 else ""
    middle = ", darker: middle half" if most >= QUARTILES_FROM else ""
    panels[-1].set_xlabel(f"evaluations{bands}{middle}")
    legend_below(figure, panels[0])
    return figure


def _draw(axes: Axes, curves: Mapping[str, Spread], as_percent: bool) -> list[float]:
    """Draw lines and bands; return every value that they reach."""
    reached: list[float] = []
    looks = cycle((colour, style) for style in STYLES for colour in COLOURS)
    for (label, spread), (colour, style) in zip(curves.items(), looks, strict=False):
        steps = np.arange(1, len(spread.median) + 1)
        bands = [(spread.lowest, spread.highest, 0.14)] if spread.searches > 1 else []
        if spread.searches >= QUARTILES_FROM:
            bands.append((spread.lower_quartile, spread.upper_quartile, 0.28))
        for low, high, opacity in bands:
            axes.fill_between(steps, low, high, step="post", color=colour, alpha=opacity, lw=0)
        axes.step(
            *(steps, spread.median),
            where="post",
            color=colour,
            linestyle=style,
            linewidth=1.8,
            label=_label(label, spread, as_percent),
        )
        axes.plot(steps[-1], spread.median[-1], "o", markersize=4, color=colour)
        both = np.concatenate([spread.lowest, spread.highest])
        reached += both[np.isfinite(both)].tolist()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return reached


def _label(label: str, spread: Spread, as_percent: bool) -> str:
    last = float(spread.median[-1])
    if np.isnan(last):
        end = "not every search within the budget"
    else:
        end = f"{100 * last:.2f} %" if as_percent else f"{last:.4g}"
    return f"{label}: {end}" + (f" ({spread.searches} searches)" if spread.searches > 1 else "")
