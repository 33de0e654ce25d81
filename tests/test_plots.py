"""Pictures: what is computed for them, and that each is written and is not blank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from amc import plots


def point(latency_ms: float, accuracy: float, feasible: bool = True) -> plots.Point:
    return {"latency_ms": latency_ms, "accuracy": accuracy, "feasible": feasible}


def colours(path: Path) -> set[tuple[int, ...]]:
    """Return the colours of a PNG, as RGB."""
    pixels = (imread(path)[..., :3] * 255).round().astype(int)
    return {tuple(int(v) for v in colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}


def rgb(name: str) -> tuple[int, ...]:
    return tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))


def test_front_holds_what_nothing_beats() -> None:
    a, b, c, d = point(1, 0.5), point(2, 0.4), point(2, 0.7), point(3, 0.7)
    assert plots.front_of([d, c, b, a]) == [a, c]
    assert plots.front_of([]) == []


def test_tradeoff_shows_points_budget_winner_and_dense(tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "tradeoff.png"
    points = [point(i, 0.5 + i / 100, i < 20) for i in range(1, 40)]
    plots.tradeoff(out, points, points[18], point(50, 0.95, False), 19.5, "digits, ddpg")
    shown = colours(out)
    assert {rgb(c) for c in (plots.RED, plots.GREEN, plots.ORANGE)} <= shown


@pytest.mark.parametrize("points", [[], [point(1, 0.5)], [point(1, 0.5, False)] * 3])
def test_tradeoff_of_next_to_nothing(tmp_path: Path, points: list[plots.Point]) -> None:
    plots.tradeoff(tmp_path / "t.png", points, None, None, None, "digits")
    assert len(colours(tmp_path / "t.png")) > 2


def test_keep_ratios_draws_a_bar_a_site(tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    plots.keep_ratios(small, {"conv1": 0.05, "layer1.0.conv1": 1.0}, "digits, ddpg")
    plots.keep_ratios(large, {f"conv{i}": 0.5 for i in range(30)}, "digits, ddpg")
    assert rgb(plots.BLUE) in colours(small)
    assert imread(large).shape[0] > 2 * imread(small).shape[0]


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plots.keep_ratios(tmp_path / name, {"conv1": 0.5}, "digits")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
