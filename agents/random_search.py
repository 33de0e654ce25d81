"""``random_search``: random plans that fill the budget, none of them twice."""

from __future__ import annotations

import numpy as np

from agents.base import Agent, require_number
from agents.fill import fill_budget
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
        seen: set[tuple[int, ...]] = set()
        while True:
            batch: list[tuple[int, ...]] = []
            while len(batch) < task.walks:
                widths = self._draw(task, generator, seen)
                if widths is None:
                    break
                seen.add(widths)
                batch.append(widths)
            if not batch:
                return
            task.evaluate([task.plan(widths) for widths in batch])

    def _draw(
        self, task: SearchTask, generator: np.random.Generator, seen: set[tuple[int, ...]]
    ) -> tuple[int, ...] | None:
        """Return widths that are not among ``seen``, or ``None`` where every draw was."""
        low = np.asarray([site.widths[0] / site.channels for site in task.sites])
        for _ in range(self.redraws + 1):
            widths = fill_budget(task, generator.uniform(low, 1.0))
            if widths not in seen:
                return widths
        return None
