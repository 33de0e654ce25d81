"""``evolution``: the best plans so far, changed at a few sites, again and again."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from agents.analytic import demonstration
from agents.base import Agent, require_choice, require_number
from agents.fill import NewPlans, fill_budget
from agents.uniform import uniform_widths
from amc.evaluation import Evaluation
from amc.search_task import SearchTask

Widths = tuple[int, ...]
LEAST = 0.01  # of what a site keeps when it is changed


class EvolutionAgent(Agent):
    """A (mu + lambda) evolution strategy within the budget by construction (Beyer and Schwefel,
    "Evolution strategies", Natural Computing 2002).

    It starts from the uniform plan and, where the task has error curves, the one of ``analytic``;
    with ``start: uniform`` from the former alone.
    Each further plan takes one of the best ``parents`` at random, multiplies the keep ratios of 1
    to ``sites`` sites by a factor each, log-normal with deviation ``spread``, and scales all of
    them by one number until the plan fills the budget; a block that is there goes, and one that is
    gone comes back. A plan that was evaluated before is drawn anew, ``redraws`` times; then the
    search ends early.
    """

    def __init__(
        self,
        *,
        start: str = "analytic",
        parents: int = 4,
        sites: int = 2,
        spread: float = 0.4,
        redraws: int = 200,
    ) -> None:
        require_choice("agents.evolution.start", start, ("analytic", "uniform"))
        require_number("agents.evolution.parents", parents, 1, whole=True)
        require_number("agents.evolution.sites", sites, 1, whole=True)
        require_number("agents.evolution.spread", spread, 1e-3, 10.0)
        require_number("agents.evolution.redraws", redraws, 0, whole=True)
        self.start = start
        self.parents, self.sites, self.spread, self.redraws = parents, sites, spread, redraws

    def search(self, task: SearchTask) -> None:
        """Evaluate the first plans, then batches of ``task.walks`` children until the end."""
        generator = np.random.default_rng(task.seed)
        known = [uniform_widths(task), demonstration(task) if self.start == "analytic" else None]
        new = NewPlans(task, self.redraws)
        batch = [widths for widths in known if widths is not None and new.take(widths)]
        scored: list[tuple[float, Widths]] = []
        dense = np.asarray(task.dense_widths, dtype=np.float64)
        while batch:
            evaluations = task.evaluate([task.plan(widths) for widths in batch])
            scored += [(_fitness(e), w) for e, w in zip(evaluations, batch, strict=True)]
            scored.sort(key=lambda entry: -entry[0])  # stable: of equals the earlier
            # What is gone altogether can come back: a keep ratio of 0 would stay 0.
            best = [
                np.maximum(np.asarray(widths) / dense, LEAST)
                for _, widths in scored[: self.parents]
            ]
            draw = partial(self._child, task, generator, best)
            batch = new.draw(task.walks, draw)

    def _child(
        self, task: SearchTask, generator: np.random.Generator, best: list[NDArray[np.float64]]
    ) -> Widths:
        """Return a changed plan of one of the ``best`` keep ratios ``[L]``."""
        parent = best[generator.integers(len(best))]
        blocks = np.array([site.decides == "block" for site in task.sites])
        return fill_budget(task, self._changed(parent, blocks, generator))

    def _changed(
        self,
        shape: NDArray[np.float64],
        blocks: NDArray[np.bool_],
        generator: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return keep ratios ``[L]`` that differ from ``shape`` at some sites."""
        count = int(generator.integers(1, min(self.sites, len(shape)) + 1))
        chosen = generator.choice(len(shape), count, replace=False)
        factors = np.exp(self.spread * generator.standard_normal(count))
        turned = np.where(shape[chosen] > LEAST, LEAST, 1.0)
        shape = shape.copy()
        shape[chosen] = np.where(blocks[chosen], turned, shape[chosen] * factors)
        return shape


def _fitness(evaluation: Evaluation) -> float:
    return evaluation.reward if evaluation.feasible else -np.inf
