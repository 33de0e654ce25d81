"""``amc compare --html``: several runs as one page that needs no network and runs no script."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from amc.comparison import (
    RunRecord,
    by_setting,
    curves,
    differences,
    groups_of,
)
from amc.comparison_plots import Series, measured_point, themed_png, tradeoffs
from amc.curve_plots import learning_curves
from amc.plots import Point
from amc.result_text import LEFT_COLUMNS, RIGHT_COLUMNS, cells, dense_cells, legend

DRAWN = ("predicted_latency_s", "search_accuracy")  # of the dense network
TEMPLATES = Path(__file__).parent / "templates"


def comparison_page(runs: Sequence[RunRecord]) -> str:
    """Return the page of ``runs`` as HTML, every picture inside it.

    Whatever text comes from a run is escaped, by the template's own rule for all values.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [search.row for run in runs for search in run.searches]
    return environment.get_template("comparison.html").render(
        title=", ".join(run.label for run in runs),
        runs=[{"label": run.label, "path": str(run.path)} for run in runs],
        columns=[name.replace("\n", " ") for name in ("run", *LEFT_COLUMNS, *RIGHT_COLUMNS)],
        text_columns=1 + len(LEFT_COLUMNS),
        results=_results(runs),
        legend=legend(rows),
        settings=[_setting(name, own) for name, own in by_setting(runs).items()],
        differences=differences(runs),
    )


def _results(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the rows of the table of results, each run's dense network below its searches."""
    lines = []
    for run in runs:
        for search in run.searches:
            lines.append({"cells": [run.label, *cells(search.row)], "dense": False})
        for dense in _dense([run]):
            lines.append({"cells": [run.label, *dense_cells(dense)], "dense": True})
    return lines


def _dense(runs: Sequence[RunRecord]) -> list[Mapping[str, Any]]:
    """Return the ``dense`` objects of these runs' rows, each once."""
    found = [search.row["dense"] for run in runs for search in run.searches]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _setting(name: tuple[str, int], runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return charts and keep ratios of the runs of one task and batch size."""
    task, batch_size = name
    groups = groups_of(runs)
    title = f"{task}, batches of {batch_size}"
    searches = [search for run in runs for search in run.searches]
    dense = _dense(runs)
    measured = [p for one in dense if (p := measured_point(one)) is not None]
    limits = {s.budget.limit for s in searches if s.budget.field == "latency_s"}
    scores, rewards = curves(groups)
    sites = dict.fromkeys(site for search in searches for site in search.keep_ratios)
    return {
        "title": title,
        "tradeoff": _picture(
            partial(
                tradeoffs,
                title,
                [Series.of(group) for group in groups],
                [_dense_point(one) for one in dense if None not in map(one.get, DRAWN)],
                measured,
                sorted(1e3 * limit for limit in limits),
            )
        ),
        "curves": _picture(partial(learning_curves, title, scores, rewards)),
        "winners": [f"{s.run}: {s.agent} seed {s.seed}" for s in searches],
        "sites": {site: [s.keep_ratios.get(site) for s in searches] for site in sites},
    }


def _dense_point(dense: Mapping[str, Any]) -> Point:
    return {
        "latency_ms": 1e3 * dense["predicted_latency_s"],
        "accuracy": dense["search_accuracy"],
        "feasible": False,
    }


def _picture(draw: Callable[[], Figure]) -> dict[str, str]:
    """Return the picture for both themes, in base 64."""
    return {
        "light": base64.b64encode(themed_png(draw, "light")).decode(),
        "dark": base64.b64encode(themed_png(draw, "dark")).decode(),
    }
