"""``knapsack``: the best plan by additive losses, exactly, with coefficients that are searched."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agents.allocator import Allocator
from agents.analytic import analytic_losses
from agents.base import Agent, require_choice, require_flag, require_number
from agents.fill import NewPlans
from agents.greedy_walk import Losses
from agents.measured_curves import MeasuredCurves, require_room
from amc.errors import InputError
from amc.search_task import SearchTask

Drawn = tuple[NDArray[np.float64], tuple[int, ...]]  # coefficients and their plan's widths
MEAN = 0.5  # of the coefficients that are drawn, and so those of the first plan


class Coefficients:
    """SPDY's local search for a factor a site; ``best`` has those of the best plan so far, ``[L]``.

    ``random`` vectors are drawn whole, then neighbours of the best, which differ from it at
    ``resampled`` sites, at one fewer after each ``patience`` of them without improvement.
    """

    def __init__(self, sites: int, seed: int, random: int, resampled: int, patience: int) -> None:
        self.best = np.full(sites, MEAN)
        self._reward = -np.inf
        self._generator = np.random.default_rng(seed)
        self._random, self._resampled, self._patience = random, resampled, patience
        self._failures = 0

    def draw(self, more: int) -> NDArray[np.float64]:
        """Return a vector ``[L]`` of numbers from 0 to 1; ``more`` sites than due are resampled."""
        resampled = len(self.best) if self._random > 0 else self._resampled + more
        kept = self._generator.permutation(len(self.best))[resampled:]
        vector = self._generator.uniform(size=len(self.best))
        vector[kept] = self.best[kept]
        return vector

    def learn(self, vector: NDArray[np.float64], reward: float) -> None:
        """Take the reward of the plan of ``vector`` into account."""
        local = self._random == 0
        self._random = max(0, self._random - 1)
        if reward > self._reward:
            self.best, self._reward, self._failures = vector, reward, 0
        elif local:
            self._failures += 1
            if self._failures >= self._patience:
                self._resampled, self._failures = max(1, self._resampled - 1), 0


class KnapsackAgent(Agent):
    """Exact allocation by additive losses, and SPDY's search for what these leave out (Frantar and
    Alistarh, "SPDY: Accurate pruning with speedup guarantees", ICML 2022, arXiv:2201.13096,
    sections 3.2 and 3.3).

    ``importance`` says what sites lose: ``measured`` takes a share ``measuring`` of the horizon for
    curves of at most ``points`` widths a site; ``analytic`` takes the task's error curves, without
    evaluations. The plan of ``Allocator`` is evaluated. With ``coefficients``, each site's
    losses are multiplied by a number drawn from 0 to 1 before they are solved for again: a share
    ``initial`` of the horizon is for vectors drawn at random, then come vectors that differ from
    the best in a share ``resampled`` of the coefficients, one fewer after each share ``patience``
    of the horizon without improvement. Where a plan was evaluated before, one coefficient more is
    drawn anew each time, up to ``redraws`` times; then the search ends early.

    Deviations: losses are measured or analytic, where the paper has a quadratic in the rank of the
    sparsity; plans are scored by the task, not by the loss on calibration data; equal coefficients
    come first; random vectors and patience, 100 each in the paper, go by the horizon; the search
    draws batches of ``task.walks``, and goes on with single coefficients to the last evaluation.
    """

    def __init__(
        self,
        *,
        importance: str = "measured",
        measuring: float = 0.5,
        points: int = 6,
        coefficients: bool = True,
        initial: float = 0.1,
        resampled: float = 0.1,
        patience: float = 0.1,
        redraws: int = 20,
        bins: int = 2000,
        linearisations: int = 4,
    ) -> None:
        name = "agents.knapsack"
        require_choice(f"{name}.importance", importance, ("measured", "analytic"))
        require_number(f"{name}.measuring", measuring, 0.0, 0.95)
        require_number(f"{name}.points", points, 1, whole=True)
        require_flag(f"{name}.coefficients", coefficients)
        require_number(f"{name}.initial", initial, 0.0, 1.0)
        require_number(f"{name}.resampled", resampled, 0.0, 1.0)
        require_number(f"{name}.patience", patience, 0.0, 1.0)
        require_number(f"{name}.redraws", redraws, 0, whole=True)
        require_number(f"{name}.bins", bins, 10, whole=True)
        require_number(f"{name}.linearisations", linearisations, 1, whole=True)
        self.importance, self.measuring, self.points = importance, measuring, points
        self.coefficients, self.initial, self.resampled = coefficients, initial, resampled
        self.patience, self.redraws = patience, redraws
        self.bins, self.linearisations = bins, linearisations

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where there are no losses, or the evaluations could end before."""
        if self.importance == "measured":
            require_room(task, "knapsack", self.measuring)
            return
        if not task.has_error_curves:
            raise InputError(
                "agents.knapsack.importance 'analytic' needs error curves, and this task has no "
                "network to take them from; choose 'measured'"
            )
        _ = task.error_curves

    def search(self, task: SearchTask) -> None:
        """Evaluate the plan of equal coefficients, then those of others until the end."""
        losses = self._losses(task)
        sites = len(task.sites)
        coefficients = Coefficients(
            sites,
            task.seed,
            random=round(self.initial * task.horizon),
            resampled=max(1, math.ceil(self.resampled * sites)),
            patience=round(self.patience * task.horizon),
        )
        allocator = Allocator(task, losses, self.bins, self.linearisations)
        new = NewPlans(task, 0)
        new.take(allocator.first)
        batch: list[Drawn] = [(coefficients.best, allocator.first)]
        while batch:
            evaluations = task.evaluate([task.plan(widths) for _, widths in batch])
            for (vector, _), evaluation in zip(batch, evaluations, strict=True):
                coefficients.learn(vector, evaluation.reward if evaluation.feasible else -np.inf)
            if not self.coefficients:
                return
            drawn = (self._drawn(coefficients, allocator, new) for _ in range(task.walks))
            batch = [its for its in drawn if its is not None]

    def _losses(self, task: SearchTask) -> Losses:
        if self.importance == "analytic":
            return analytic_losses(task)
        curves = MeasuredCurves(task)
        curves.measure_evenly(int(self.measuring * task.horizon), self.points)
        return curves.losses()

    def _drawn(
        self, coefficients: Coefficients, allocator: Allocator, new: NewPlans
    ) -> Drawn | None:
        """Return coefficients whose plan is new, and that; ``None`` where too many are known."""
        for redraw in range(self.redraws + 1):
            vector = coefficients.draw(redraw)
            widths = allocator.widths(vector)
            if new.take(widths):
                return vector, widths
        return None
