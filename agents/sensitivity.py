"""``sensitivity``: every site gives as much as costs one and the same loss of score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, require_number
from agents.fill import NewPlans
from agents.greedy_walk import Losses, positions_of, widened, widths_at
from agents.measured_curves import MeasuredCurves, Point, require_room
from amc.cost import cheapest_widths
from amc.search_task import SearchTask


class SensitivityAgent(Agent):
    """One threshold on the measured loss of every site alone (the sensitivity analysis of Li et
    al., ICLR 2017, arXiv:1608.08710, section 3.2, by which practitioners set their layers).

    ``measuring`` is the share of the horizon that may go into curves, at most ``points`` widths a
    site. The plan of ``threshold_widths`` is evaluated. Further evaluations measure, at each site,
    the width that the plan takes and the next on both sides, those farthest from a measured width
    first, with a new plan after each batch; where all of these are measured, the search ends.
    Deviations: the paper sets its few ratios a stage by hand; one threshold stands for the hand.
    """

    def __init__(self, *, measuring: float = 0.8, points: int = 6) -> None:
        require_number("agents.sensitivity.measuring", measuring, 0.0, 0.95)
        require_number("agents.sensitivity.points", points, 1, whole=True)
        self.measuring, self.points = measuring, points

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the evaluations could end before there is a plan."""
        require_room(task, "sensitivity", self.measuring)

    def search(self, task: SearchTask) -> None:
        """Measure, evaluate the plan, measure where it stands, and plan again until it stays."""
        curves = MeasuredCurves(task)
        curves.measure_evenly(int(self.measuring * task.horizon), self.points)
        new = NewPlans(task, 0)
        while True:
            widths = threshold_widths(task, curves.losses())
            plans = [task.plan(widths)] if new.take(widths) else []
            points = _doubtful(task, curves, widths)[: max(0, task.walks - len(plans))]
            if not plans and not points:
                return
            evaluations = task.evaluate(plans + curves.plans(points))
            curves.record(points, evaluations[len(plans) :])


def threshold_widths(task: SearchTask, losses: Losses) -> tuple[int, ...]:
    """Return widths ``[L]``: each site's narrowest whose loss is within the threshold.

    ``losses`` are ``[L][widths]``. The threshold is the least at which the plan fits the budget, by
    bisection of all at which it changes; what room is left then is given to sites that lose most.
    No site is narrower than in the cheapest plan, which fits whatever the threshold.
    """
    cheapest = cheapest_widths(task.cost_model, task.sites, task.budget.field)
    floor = positions_of(task, cheapest)
    thresholds = np.unique(np.concatenate(losses))
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        at = _within(losses, floor, float(thresholds[middle]))
        if task.budget.within(task.budget_costs(widths_at(task, at[None])))[0]:
            high = middle
        else:
            low = middle + 1
    return widened(task, losses, _within(losses, floor, float(thresholds[high])))


def _within(losses: Losses, floor: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return the least positions ``[L]``, from ``floor`` on, of losses within the threshold."""
    pairs = zip(losses, floor, strict=True)
    # The full width loses least, so it stands in where none is within.
    least = [int(np.argmax(np.append(its[at:-1], -1) <= threshold)) for its, at in pairs]
    return np.asarray(floor + least)


def _doubtful(task: SearchTask, curves: MeasuredCurves, widths: tuple[int, ...]) -> list[Point]:
    """Return the points of the plan and beside it that lack a measurement, the worst known first.

    Nothing where no curve was measured at all.
    """
    if not curves.measured:
        return []
    found = []
    for t, position in enumerate(positions_of(task, widths).tolist()):
        last = len(task.sites[t].widths) - 1
        measured = [p for p in range(last + 1) if not curves.lacks((t, p))]
        for point in ((t, position), (t, position - 1), (t, position + 1)):
            if curves.lacks(point):
                far = min(abs(point[1] - p) for p in measured) / last
                found.append((point[1] != position, -far, point))
    return [point for _, _, point in sorted(found)]
