"""How sure it is which agent of an arena does best, after a few searches of each.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(NeurIPS 2021): interquartile means, the probability of improvement and average ranks, with
percentile intervals of a stratified bootstrap, which draws seeds anew within each task. The tasks
stay as they are: intervals are about other seeds, not about other tasks.

Deviations: agents may have different numbers of seeds, so that runs of one seed are not compared
with each other but in ``paired_difference``; the pooled mean is over differences from a reference
of each task, which the caller subtracts, where the paper has scores relative to a human's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, trim_mean

Floats = NDArray[np.float64]
Scores = Mapping[str, Mapping[str, Sequence[float]]]  # by agent, by task, one a seed

LEVEL = 0.95
RESAMPLES = 4000
TRIMMED = 0.25  # at either end
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A value from ``runs`` searches, and its 95% interval, ``None`` where one was too few."""

    value: float
    interval: tuple[float, float] | None
    runs: int


def interquartile_mean(values: Floats) -> Floats:
    """Return the mean of the middle half of ``values`` ``[..., runs]``, ``[...]``."""
    return np.asarray(trim_mean(values, TRIMMED, axis=-1))


class Bootstrap:
    """Draws every agent's seeds anew, once for all statistics, so that these fit each other."""

    def __init__(self, scores: Scores, resamples: int = RESAMPLES, seed: int = SEED) -> None:
        """Every agent has scores on every task; ``ValueError`` otherwise."""
        self.agents = list(scores)
        self.tasks = list(dict.fromkeys(task for own in scores.values() for task in own))
        if not self.tasks or any(not scores[a].get(t) for a in self.agents for t in self.tasks):
            raise ValueError("every agent must have a score on every task")
        self._generator = np.random.default_rng(seed)
        self._resamples = resamples
        self._values = {
            (agent, task): np.asarray(scores[agent][task], float)
            for agent in self.agents
            for task in self.tasks
        }
        self._drawn = {
            key: self._generator.integers(len(own), size=(resamples, len(own)))
            for key, own in self._values.items()
        }

    def task_mean(self, agent: str, task: str) -> Estimate:
        """Return the interquartile mean over the seeds of an agent on a task."""
        own = self._values[agent, task]
        drawn = interquartile_mean(own[self._drawn[agent, task]])
        return _estimate(float(interquartile_mean(own)), drawn, len(own), len(own) > 1)

    def mean(self, agent: str) -> Estimate:
        """Return the interquartile mean over all tasks and seeds of an agent together."""
        own = [self._values[agent, task] for task in self.tasks]
        redrawn = [self._values[agent, task][self._drawn[agent, task]] for task in self.tasks]
        drawn = interquartile_mean(np.concatenate(redrawn, axis=1))
        pooled = np.concatenate(own)
        value = float(interquartile_mean(pooled))
        return _estimate(value, drawn, len(pooled), self._repeated([agent]))

    def improvement(self, agent: str, other: str) -> Estimate:
        """Return the probability that a search of ``agent`` beats one of ``other`` on a task.

        It is the mean over tasks; of equal scores each wins half (the Mann-Whitney statistic).
        """
        values, drawn = [], []
        for task in self.tasks:
            ours, theirs = self._values[agent, task], self._values[other, task]
            wins = _wins(ours, theirs)
            values.append(float(wins.mean()))
            shares = self._shares[agent, task], self._shares[other, task]
            drawn.append(((shares[0] @ wins) * shares[1]).sum(axis=1))
        runs = sum(len(self._values[agent, task]) for task in self.tasks)
        sure = self._repeated([agent, other])
        return _estimate(float(np.mean(values)), np.mean(drawn, axis=0), runs, sure)

    @cached_property
    def ranks(self) -> dict[str, Estimate]:
        """Each agent's rank by interquartile mean, 1 the best, averaged over tasks.

        Of equal means all have the middle rank.
        """
        value = np.zeros(len(self.agents))
        drawn = np.zeros((self._resamples, len(self.agents)))
        for task in self.tasks:
            own = [self._values[agent, task] for agent in self.agents]
            means = np.array([interquartile_mean(one) for one in own])
            value += rankdata(-means)
            redrawn = [
                interquartile_mean(one[self._drawn[agent, task]])
                for one, agent in zip(own, self.agents, strict=True)
            ]
            drawn += rankdata(-np.stack(redrawn, axis=1), axis=1)
        count = len(self.tasks)
        sure = self._repeated(self.agents)
        return {
            agent: _estimate(float(value[i]) / count, drawn[:, i] / count, count, sure)
            for i, agent in enumerate(self.agents)
        }

    def _repeated(self, agents: Sequence[str]) -> bool:
        """Return whether there are several seeds of any of ``agents``, on any task."""
        return any(len(self._values[agent, task]) > 1 for agent in agents for task in self.tasks)

    @cached_property
    def _shares(self) -> dict[tuple[str, str], Floats]:
        """How often each seed was drawn, as a share, ``[resamples, seeds]``."""
        return {
            key: np.asarray((drawn[:, :, None] == np.arange(drawn.shape[1])).mean(axis=1))
            for key, drawn in self._drawn.items()
        }


def paired_difference(
    ours: Mapping[str, Mapping[int, float]],
    theirs: Mapping[str, Mapping[int, float]],
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Return how far ``ours[task][seed]`` is above ``theirs``, seed by seed.

    It is the mean over tasks of the mean over the seeds that both have; ``None`` where a task has
    none. What is drawn anew are pairs, within each task.
    """
    generator = np.random.default_rng(SEED)
    values, drawn, pairs = [], [], 0
    for task, own in ours.items():
        seeds = [seed for seed in own if seed in theirs.get(task, {})]
        if not seeds:
            return None
        differences = np.array([own[seed] - theirs[task][seed] for seed in seeds])
        values.append(float(differences.mean()))
        places = generator.integers(len(seeds), size=(resamples, len(seeds)))
        drawn.append(differences[places].mean(axis=1))
        pairs = max(pairs, len(seeds))
    if not values:
        return None
    runs = sum(len(own) for own in ours.values())
    return _estimate(float(np.mean(values)), np.mean(drawn, axis=0), runs, pairs > 1)


def _wins(ours: Floats, theirs: Floats) -> Floats:
    """Return 1 where ours is higher, 1/2 where equal, else 0, ``[ours, theirs]``."""
    above = ours[:, None] > theirs[None, :]
    return np.asarray(above + 0.5 * (ours[:, None] == theirs[None, :]), dtype=float)


def _estimate(value: float, drawn: Floats, runs: int, sure: bool) -> Estimate:
    if not sure:
        return Estimate(value, None, runs)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Estimate(value, (float(low), float(high)), runs)
