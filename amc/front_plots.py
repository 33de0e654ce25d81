"""The picture of ``amc front``: accuracy against measured latency, a front a search space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc.bench_latency import geometric_mean
from amc.curve_plots import COLOURS
from amc.pareto import Point, pareto_front
from amc.plots import GREY, accuracy_axis, legend_below, new_figure, save

FORMS = {"channels_last": "D", "contiguous": "s", "fused": "P", "onnx_runtime": "X"}


def draw_front(path: Path, result: Mapping[str, Any]) -> None:
    """Draw ``amc.fronts.front``'s result: every plan, each space's front, the dense network."""
    title = f"{result['network']}: fine-tuned plans on this machine, batches of "
    figure, axes = new_figure(f"{title}{result['batch_size']}", height=4.8)
    for colour, space in zip(COLOURS, result["spaces"], strict=False):
        rows = [row for row in result["rows"] if row["space"] == space["space"]]
        points = [
            Point(1e3 * geometric_mean(row["processes_s"]), row["test_accuracy"]) for row in rows
        ]
        best = pareto_front(points, lambda point: point)
        label = f"{space['space']}: hypervolume {space['hypervolume']:.3f} (median of seeds)"
        axes.scatter(
            [p.latency for p in points], [p.accuracy for p in points], s=30, color=colour, alpha=0.7
        )
        axes.step(
            *([p.latency for p in best], [p.accuracy for p in best]),
            where="post",
            color=colour,
            linewidth=1.3,
            label=label,
        )
    dense = result["dense_test_accuracy"]
    for form, seconds in result["dense"].items():
        name = form.replace("_", " ")
        label = f"dense, {name}: {1e3 * seconds:.3g} ms"
        axes.scatter([1e3 * seconds], [dense], marker=FORMS[form], s=55, color="black", label=label)
    axes.axhline(dense - result["lost"], color=GREY, linestyle="--", linewidth=1.0)
    note = f"{100 * result['lost']:g} points lost"
    place = axes.get_yaxis_transform()
    axes.text(0.99, dense - result["lost"], note, transform=place, ha="right", va="bottom", size=8)
    accuracy_axis(axes, [dense, *(row["test_accuracy"] for row in result["rows"])])
    axes.set_xlim(left=0)
    axes.set_xlabel("measured latency of one batch (ms)")
    axes.set_ylabel("test accuracy, fine-tuned")
    legend_below(figure, axes)
    save(figure, path)
