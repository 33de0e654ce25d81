"""``greedy``: the steepest gain first by measured curves, then the best of the neighbours."""

from __future__ import annotations

import numpy as np

from agents.base import Agent, require_number
from agents.exchanges import exchanges
from agents.fill import NewPlans
from agents.greedy_walk import Losses, greedy_widths
from agents.measured_curves import MeasuredCurves, require_room
from amc.search_task import SearchTask

Widths = tuple[int, ...]


class GreedyAgent(Agent):
    """Greedy descent on measured curves, then hill climbing on the measured reward.

    ``measuring`` is the share of the horizon that may go into the curves, at most ``points`` widths
    a site. The plan of ``greedy_widths`` is evaluated; then batches of ``task.walks`` neighbours of
    the best plan so far, those of ``exchanges`` by the loss that the curves predict, each pair of
    sites at most once a batch as long as there are others. Where all neighbours of the best plan
    are known, those of the next best follow; it ends early where all are known of all plans.
    """

    def __init__(self, *, measuring: float = 0.5, points: int = 6) -> None:
        require_number("agents.greedy.measuring", measuring, 0.0, 0.95)
        require_number("agents.greedy.points", points, 1, whole=True)
        self.measuring, self.points = measuring, points

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the evaluations could end before there is a plan."""
        require_room(task, "greedy", self.measuring)

    def search(self, task: SearchTask) -> None:
        """Measure, evaluate the greedy plan, and climb as long as a neighbour is new."""
        curves = MeasuredCurves(task)
        curves.measure_evenly(int(self.measuring * task.horizon), self.points)
        losses = curves.losses()
        new = NewPlans(task, 0)
        batch = [greedy_widths(task, losses)]
        new.take(batch[0])
        scored: list[tuple[float, Widths]] = []
        while batch:
            evaluations = task.evaluate([task.plan(widths) for widths in batch])
            for widths, evaluation in zip(batch, evaluations, strict=True):
                scored.append((evaluation.reward if evaluation.feasible else -np.inf, widths))
            scored.sort(key=lambda entry: -entry[0])  # stable: of equals the earlier
            batches = (_neighbours(task, losses, widths, new) for _, widths in scored)
            batch = next(filter(None, batches), [])


def _neighbours(task: SearchTask, losses: Losses, best: Widths, new: NewPlans) -> list[Widths]:
    """Return up to ``task.walks`` new neighbours: of each pair of sites the first, then others."""
    batch: list[Widths] = []
    pairs: set[tuple[int, ...]] = set()
    others: list[Widths] = []
    for widths in exchanges(task, losses, best):
        pair = tuple(np.sign(np.subtract(widths, best)).tolist())
        if pair in pairs:
            others.append(widths)
        elif new.take(widths):
            pairs.add(pair)
            batch.append(widths)
        if len(batch) == task.walks:
            return batch
    for widths in others:
        if len(batch) < task.walks and new.take(widths):
            batch.append(widths)
    return batch
