"""``shallow`` and ``deep``: the first, or the last, sites give the most; one evaluation each."""

from __future__ import annotations

import numpy as np

from agents.base import Agent, require_number
from agents.fill import fill_budget
from amc.search_task import SearchTask

STEEPEST = 0.99  # keep ratios stay above 0


def sloped_widths(task: SearchTask, first: float, last: float) -> tuple[int, ...]:
    """Return the widest widths ``[L]`` within the budget of keep ratios that lie on a line.

    The line runs over the sites in their order, from ``first`` to ``last``, both above 0; all keep
    ratios are scaled by one number, as in ``fill_budget``.
    """
    return fill_budget(task, np.linspace(first, last, len(task.sites)))


class ShallowAgent(Agent):
    """Shallow layers are pruned more than deep ones (AMC's policy "shallow": He et al., ECCV 2018,
    arXiv:1802.03494, section 4).

    Before it is scaled, the keep ratio rises from 1 - ``steepness`` at the first site to 1 at the
    last; the straight line and its steepness are choices made here.
    """

    def __init__(self, *, steepness: float = 0.5) -> None:
        require_number("agents.shallow.steepness", steepness, 0.0, STEEPEST)
        self.steepness = steepness

    def search(self, task: SearchTask) -> None:
        """Evaluate the one plan."""
        task.evaluate([task.plan(sloped_widths(task, 1.0 - self.steepness, 1.0))])


class DeepAgent(Agent):
    """Deep layers are pruned more than shallow ones (AMC's policy "deep"); see ``ShallowAgent``.

    Before it is scaled, the keep ratio falls from 1 at the first site to 1 - ``steepness`` at the
    last.
    """

    def __init__(self, *, steepness: float = 0.5) -> None:
        require_number("agents.deep.steepness", steepness, 0.0, STEEPEST)
        self.steepness = steepness

    def search(self, task: SearchTask) -> None:
        """Evaluate the one plan."""
        task.evaluate([task.plan(sloped_widths(task, 1.0, 1.0 - self.steepness))])
