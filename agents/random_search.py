"""``random_search``: random plans that fill the budget, none of them twice."""

from __future__ import annotations

import numpy as np

from agents.base import Agent, require_number
from agents.fill import NewPlans, fill_budget
from amc.search_task import SearchTask


class RandomSearchAgent(Agent):
    """Random search within the budget by construction.

    Each plan draws a keep ratio a site, uniform between its narrowest and 1, and scales all of them
    by one number until the plan fills the budget (the baseline of "Revisiting Random Channel
    Pruning", CVPR 2022, which rejects plans that miss the budget instead of scaling them). A plan
    that was evaluated before is drawn anew, ``redraws`` times; then the space counts as exhausted
    and the search ends early.
    """

    def __init__(self, *, redraws: int = 200) -> None:
        require_number("agents.random_search.redraws", redraws, 0, whole=True)
        self.redraws = redraws

    def search(self, task: SearchTask) -> None:
        """Evaluate batches of ``task.walks`` new plans until the evaluations are spent."""
        generator = np.random.default_rng(task.seed)
        low = np.asarray([site.widths[0] / site.full for site in task.sites])
        new = NewPlans(task, self.redraws)

        def draw() -> tuple[int, ...]:
            return fill_budget(task, generator.uniform(low, 1.0))

        while batch := new.draw(task.walks, draw):
            task.evaluate([task.plan(widths) for widths in batch])
