"""What each site loses at each width, measured: one site narrowed, all others dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from agents.analytic import analytic_losses, proportional_losses
from agents.greedy_walk import Losses
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.plan import Plan
from amc.search_task import SearchTask
from amc.sites import Site

Point = tuple[int, int]  # a site, and a position among its widths
UNSEEN = 0.01  # of the largest loss may be lost by any site without being seen in scores
LEAST = 1e-9  # so that of equal scores the wider width is always the better


class MeasuredCurves:
    """Losses of score, from evaluations of plans with one site narrowed.

    Such a sensitivity analysis is that of Li et al., "Pruning filters for efficient convnets",
    ICLR 2017, arXiv:1608.08710, section 3.2. The loss of a width is the dense network's score less
    the plan's. Deviations: a site's losses are made monotone (least squares; at least 0, and 0 at
    its full width), and the square root of the loss is interpolated between measured widths,
    monotone too: around a trained network the loss grows with the square of what is taken away.
    A width that could not be scored counts as not measured. A site of which none could be loses at
    its narrowest as much as any site does. Scores are of few images, so that no loss seen is not
    quite none: a hundredth of the largest loss, times the share that goes, is added to all.

    Where the dense network could not be scored, the best score stands for its own. Where nothing is
    measured, losses are those of ``known_losses``, which are in another unit.
    """

    def __init__(self, task: SearchTask) -> None:
        self._task = task
        self._dense: float | None = None
        self._scores: dict[Point, float | None] = {}
        self._known: Losses | None = None

    @property
    def measured(self) -> bool:
        """Whether any loss was measured."""
        return any(score is not None for score in self._scores.values())

    def measure_evenly(self, allowed: int, most: int) -> None:
        """Evaluate the dense network, and each site at as many widths as ``allowed`` evaluations
        suffice for, ``most`` at most, in batches of ``task.walks``.

        The widths are spread evenly on each site's legal ones, the narrowest among them; a site
        that has fewer is measured at all of them. Where one a site is too many, nothing is.
        """
        sites = self._task.sites
        counts = [n for n in range(1, most + 1) if 1 + len(_spread_over(sites, n)) <= allowed]
        if not counts:
            return
        points = _spread_over(sites, counts[-1])
        dense = self._task.plan(self._task.dense_widths)
        walks = self._task.walks
        for start in range(0, 1 + len(points), walks):
            batch = points[max(0, start - 1) : start + walks - 1]
            first = [dense] if start == 0 else []
            evaluations = self._task.evaluate(first + self.plans(batch))
            if first and evaluations[0].feasible:
                self._dense = evaluations[0].score
            self.record(batch, evaluations[len(first) :])

    def plans(self, points: Sequence[Point]) -> list[Plan]:
        """Return the plans to evaluate for ``points``."""
        plans = []
        for t, position in points:
            widths = list(self._task.dense_widths)
            widths[t] = self._task.sites[t].widths[position]
            plans.append(self._task.plan(widths))
        return plans

    def record(self, points: Sequence[Point], evaluations: Sequence[Evaluation]) -> None:
        """Take the evaluations of the plans of ``points``."""
        for point, evaluation in zip(points, evaluations, strict=True):
            self._scores[point] = evaluation.score if evaluation.feasible else None

    def lacks(self, point: Point) -> bool:
        """Return whether a point was never evaluated; full widths need not be."""
        t, position = point
        widths = self._task.sites[t].widths
        return 0 <= position < len(widths) - 1 and point not in self._scores

    def losses(self) -> Losses:
        """Return the loss at each legal width of each site, ``[L][widths]``: in the unit of the
        score, at least 0, falling with the width, and 0 where the site is dense.
        """
        if not self.measured:
            if self._known is None:
                self._known = known_losses(self._task)
            return self._known
        scores = {point: score for point, score in self._scores.items() if score is not None}
        dense = max(scores.values()) if self._dense is None else self._dense
        worst = max(0.0, dense - min(scores.values()))
        curves = []
        for t, site in enumerate(self._task.sites):
            its = {site.widths[p]: dense - s for (u, p), s in scores.items() if u == t}
            curves.append(_curve(site, its or {site.widths[0]: worst}, UNSEEN * worst + LEAST))
        return curves


def known_losses(task: SearchTask) -> Losses:
    """Return losses ``[L][widths]`` without evaluations: analytic ones or, without, proportional.

    Says why where there are no curves although there is a network.
    """
    if task.has_error_curves:
        try:
            return analytic_losses(task)
        except InputError as error:
            task.notify(f"losses are taken to be proportional to what goes: {error}")
    return proportional_losses(task)


def require_room(task: SearchTask, agent: str, share: float) -> None:
    """Raise ``InputError`` where measuring by a ``share`` of the horizon would leave no plan."""
    if int(share * task.horizon) >= task.evaluations:
        raise InputError(
            f"horizon {task.horizon} is so far above the {task.evaluations} evaluations that "
            f"agents.{agent} could measure sites until they are spent; lower horizon, raise "
            f"evaluations or lower agents.{agent}.measuring"
        )


def _spread_over(sites: Sequence[Site], count: int) -> list[Point]:
    """Return ``count`` positions a site, evenly spread from its narrowest, without its full one."""
    points = []
    for t, site in enumerate(sites):
        even = np.round(np.linspace(0, len(site.widths) - 1, count + 1)).astype(int)
        points += [(t, int(p)) for p in np.unique(even) if p < len(site.widths) - 1]
    return points


def _curve(site: Site, losses: Mapping[int, float], unseen: float) -> NDArray[np.float64]:
    """Return the loss at each legal width, ``[widths]``, from those at some narrower than full.

    ``unseen`` times the share that goes is added.
    """
    widths = np.asarray(site.widths, dtype=np.float64)
    if len(widths) == 1:
        return np.zeros(1)
    known = np.array(sorted(losses), dtype=np.float64)
    raw = np.array([losses[width] for width in sorted(losses)])
    falling = np.asarray(isotonic_regression(raw, increasing=False).x, dtype=np.float64)
    roots = np.sqrt(np.maximum(falling, 0.0))
    gone = 1.0 - widths / site.full
    if known[0] > widths[0]:
        further = gone[0] / (1.0 - known[0] / site.full)
        known, roots = np.append(widths[0], known), np.append(roots[0] * further, roots)
    between = PchipInterpolator(np.append(known, site.full), np.append(roots, 0.0))
    curve = np.asarray(between(widths)) ** 2 + unseen * gone
    curve[-1] = 0.0  # the interpolation may be off by its last bit
    return curve
