"""``uniform``: every site keeps the same fraction of its channels."""

from __future__ import annotations

import numpy as np

from agents.base import Agent
from agents.fill import fill_budget
from amc.search_task import SearchTask


def uniform_widths(task: SearchTask) -> tuple[int, ...]:
    """Return the widths ``[L]`` of the largest uniform keep ratio that fits, each site rounded."""
    return fill_budget(task, np.ones(len(task.sites)))


class UniformAgent(Agent):
    """The uniform width multiplier (the baseline of AMC, table 3): one evaluation, no search."""

    def search(self, task: SearchTask) -> None:
        """Evaluate the one plan."""
        task.evaluate([task.plan(uniform_widths(task))])
