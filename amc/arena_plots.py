"""The pictures of an arena's report. Each function returns a figure, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from amc.arena_record import Arena
from amc.arena_scores import Curve, Floats, Front
from amc.arena_statistics import Estimate
from amc.curve_plots import COLOURS
from amc.pareto import pareto_front
from amc.plots import BLUE, GREY, ORANGE, accuracy_axis, legend_below, new_figure

LABEL_INCHES = 0.155  # between the names at the ends of lines
POINTER = {"arrowstyle": "-", "lw": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
TITLES_INCHES = 0.9  # of a panel, above and below its lines
TASK_SCORE = "task"  # the configuration's name for the task's own
LOWEST = 0.1  # of the lines may start below the picture


def curves(
    title: str, by_task: Mapping[str, Sequence[Curve]], best: Sequence[str], unit: str, score: str
) -> Figure:
    """Return the best ``score`` so far against ``unit``, a panel a task, a line an agent.

    The agents ``best`` have colours and bands of 95%, the others are grey; all have their names at
    the ends of their lines.
    """
    most = max(len(own) for own in by_task.values())
    height = max(3.2, TITLES_INCHES + LABEL_INCHES * most)
    figure, panels = _grid(title, len(by_task), height)
    looks = dict(zip(best, COLOURS, strict=False))
    for axes, (task, own) in zip(panels, by_task.items(), strict=False):
        axes.set_title(task, fontsize=10, loc="left", parse_math=False)
        for curve in sorted(own, key=lambda curve: curve.agent in looks):
            colour = looks.get(curve.agent)
            if colour is not None and curve.runs > 1:
                band = (curve.at, curve.low, curve.high)
                axes.fill_between(*band, step="post", color=colour, alpha=0.16, lw=0)
            axes.step(
                *(curve.at, curve.mean),
                where="post",
                color=colour or GREY,
                linewidth=1.8 if colour else 0.9,
                zorder=3 if colour else 2,
            )
        accuracy_axis(axes, _shown(own))
        if score != TASK_SCORE:
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        if unit == "seconds":
            axes.set_xscale("log")
            axes.set_xlabel("seconds of search: agent and evaluations, on one core")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("evaluations")
        _names(axes, [c for c in own if np.isfinite(c.mean[-1:]).all()], looks, height)
    for row in panels[:: _columns(len(by_task))]:
        named = "accuracy" if score == TASK_SCORE else score.replace("_", " ")
        row.set_ylabel(f"best {named} within budget, search images")
    return figure


def _shown(own: Sequence[Curve]) -> list[float]:
    """Return the values that the picture is scaled to: ends, and where most lines begin."""
    firsts = [float(c.mean[np.isfinite(c.mean)][0]) for c in own if np.isfinite(c.mean).any()]
    ends = [float(v[-1]) for c in own for v in (c.low, c.high) if np.isfinite(v[-1:]).all()]
    floor = float(np.quantile(firsts, LOWEST)) if firsts else 0.0
    return [*(value for value in firsts if value >= floor), *ends]


def _names(axes: Axes, own: Sequence[Curve], looks: Mapping[str, str], height: float) -> None:
    """Write each line's name beside its end, none over another, in a panel of so many inches."""
    low, high = axes.get_ylim()
    ends = sorted(own, key=lambda curve: float(curve.mean[-1]))
    if ends and len(ends[0].at) > 1:
        axes.margins(x=0.005)
    gap = (high - low) * LABEL_INCHES / (height - TITLES_INCHES)
    places = spread_out([float(curve.mean[-1]) for curve in ends], gap, low, high)
    for curve, place in zip(ends, places, strict=True):
        colour = looks.get(curve.agent, "#5b6570")
        axes.annotate(
            curve.agent,
            (1.0, float(curve.mean[-1])),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.03, place),
            textcoords=axes.get_yaxis_transform(),
            fontsize=7.5,
            color=colour,
            va="center",
            parse_math=False,
            arrowprops={**POINTER, "color": colour},
        )


def spread_out(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return rising ``places`` moved so that they are ``gap`` apart, between ``low`` and ``high``.

    Each stays near its own place; where there is no room for all, they reach above ``high``.
    """
    groups: list[tuple[float, int]] = []  # middle and number of those that touch each other
    for place in places:
        groups.append((place, 1))
        while len(groups) > 1:
            (below, few), (above, more) = groups[-2:]
            if above - below >= gap * (few + more) / 2:
                break
            groups[-2:] = [((below * few + above * more) / (few + more), few + more)]
    found = [m + gap * (i - (count - 1) / 2) for m, count in groups for i in range(count)]
    for i, place in reversed(list(enumerate(found))):
        found[i] = min(place, high if i + 1 == len(found) else found[i + 1] - gap)
    for i, place in enumerate(found):
        found[i] = max(place, low if i == 0 else found[i - 1] + gap)
    return found


def improvement(title: str, agents: Sequence[str], values: Floats) -> Figure:
    """Return ``values[i, j]``, the probability that agent i beats agent j, as a map."""
    size = max(4.0, 1.6 + 0.42 * len(agents))
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = axes.imshow(values, vmin=0, vmax=1, cmap="RdBu")
    for (i, j), value in np.ndenumerate(values):
        if i != j:
            colour = "white" if abs(value - 0.5) > 0.3 else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(agents)), agents, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(agents)), agents, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_ylabel("P(this one ...")
    axes.set_xlabel("... beats this one)")
    figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


def costs(title: str, agents: Sequence[str], evaluation_s: Floats, agent_s: Floats) -> Figure:
    """Return what a search of each agent costs, in evaluations and of the agent's own, stacked."""
    figure, axes = new_figure(title, height=max(2.6, 1.4 + 0.26 * len(agents)))
    places = range(len(agents))
    axes.barh(places, evaluation_s, color=BLUE, label="evaluations")
    axes.barh(places, agent_s, left=evaluation_s, color=ORANGE, label="the agent's own")
    axes.set_yticks(list(places), list(agents), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a search, on one core, median over seeds, mean over tasks")
    legend_below(figure, axes)
    return figure


def agreement(title: str, arena: Arena) -> Figure:
    """Return accuracy after fine-tuning against that of the search, a point a winner."""
    figure, panels = _grid(title, len(arena.tasks), 3.2)
    for axes, task in zip(panels, arena.tasks, strict=False):
        axes.set_title(task, fontsize=10, loc="left", parse_math=False)
        both = [
            (run.search_accuracy, run.finetuned_test_accuracy)
            for run in arena.of(task)
            if run.search_accuracy is not None and run.finetuned_test_accuracy is not None
        ]
        axes.scatter([x for x, _ in both], [y for _, y in both], s=18, color=BLUE, alpha=0.6, lw=0)
        axes.set_xlabel("accuracy on the whole search split")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        accuracy_axis(axes, [y for _, y in both])
    panels[0].set_ylabel("test accuracy, fine-tuned")
    return figure


def front(title: str, fronts: Sequence[Front], best: Sequence[str]) -> Figure:
    """Return accuracy against predicted latency of the winners on one network."""
    figure, axes = new_figure(title, height=4.8)
    looks = dict(zip(best, COLOURS, strict=False))
    for own in sorted(fronts, key=lambda one: one.agent in looks):
        colour = looks.get(own.agent)
        x, y = [1e3 * p.latency for p in own.points], [p.accuracy for p in own.points]
        axes.scatter(x, y, s=22, color=colour or GREY, alpha=0.7, lw=0)
        if colour is not None:
            beaten = pareto_front(own.points, lambda point: point)
            label = f"{own.agent}: hypervolume {np.median(own.volumes):.3f}"
            line = [1e3 * p.latency for p in beaten], [p.accuracy for p in beaten]
            axes.step(*line, where="post", color=colour, linewidth=1.4, label=label)
    accuracy_axis(axes, [p.accuracy for own in fronts for p in own.points])
    axes.set_xlabel("predicted latency of one batch (ms)")
    axes.set_ylabel("test accuracy, fine-tuned if at all")
    legend_below(figure, axes)
    return figure


def ranks(title: str, found: Mapping[str, Estimate]) -> Figure:
    """Return average ranks with their intervals, the best on top."""
    figure, axes = new_figure(title, height=max(2.4, 1.0 + 0.26 * len(found)))
    ordered = sorted(found.items(), key=lambda pair: pair[1].value)
    for place, (_, rank) in enumerate(ordered):
        low, high = rank.interval or (rank.value, rank.value)
        axes.plot([low, high], [place, place], color=BLUE, linewidth=5, alpha=0.4)
        axes.plot(rank.value, place, "o", color=BLUE, markersize=5)
    axes.set_yticks(range(len(ordered)), [agent for agent, _ in ordered], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("average rank over tasks, 1 is best; bar: 95% interval over seeds")
    return figure


def _columns(count: int) -> int:
    return 1 if count == 1 else 2


def _grid(title: str, count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels, each ``height`` inches high, in two columns."""
    columns = _columns(count)
    rows = -(-count // columns)
    figure = Figure(figsize=(6.6 * columns, rows * height + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[:count]:
        axes.grid(visible=True, color=GREY, alpha=0.35, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]
