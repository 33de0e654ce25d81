"""What the report of an arena compares: scores by agent and task, curves, correlations, fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from amc.arena_record import Arena, Bouted
from amc.arena_statistics import Bootstrap, interquartile_mean
from amc.pareto import Point, hypervolume

Metric = Literal["search_accuracy", "test_accuracy", "finetuned_test_accuracy"]
Floats = NDArray[np.float64]
METRICS: dict[Metric, str] = {
    "search_accuracy": "whole search split",
    "test_accuracy": "test split",
    "finetuned_test_accuracy": "test split after the short fine-tuning",
}
RESAMPLES = 500  # of a band
WORST = 0.05  # of accuracy, what the hypervolume's worst point loses


@dataclass(frozen=True)
class Curve:
    """An agent's best score against evaluations or seconds: interquartile mean and 95% band.

    All are ``[places]``, NaN until every one of the ``runs`` searches has a plan.
    """

    agent: str
    runs: int
    at: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Correlation:
    """How a score of the search goes with accuracy after fine-tuning, over ``n`` winners."""

    task: str
    n: int
    spearman: float
    pearson: float


@dataclass(frozen=True)
class Front:
    """Winners of one agent on one network: ``volumes`` are their hypervolumes, one a seed."""

    network: str
    agent: str
    points: tuple[Point, ...]
    volumes: tuple[float, ...]


def has(arena: Arena, metric: Metric) -> bool:
    """Return whether there is such a score at all."""
    return any(getattr(run, metric) is not None for run in arena.runs)


def scores_of(
    arena: Arena, metric: Metric, *, from_dense: bool = False
) -> dict[str, dict[str, list[float]]]:
    """Return the scores by agent, task and seed, of the agents that have searched every task.

    A search without a plan counts as a score of 0. With ``from_dense`` the dense network's score is
    subtracted, so that tasks can be taken together.
    """
    return {
        agent: {
            task: list(_seeds(arena, agent, task, metric, from_dense).values())
            for task in arena.tasks
        }
        for agent in arena.labels()
    }


def by_seed(arena: Arena, agent: str, metric: Metric) -> dict[str, dict[int, float]]:
    """Return an agent's scores by task and seed; without a plan it is 0."""
    return {task: _seeds(arena, agent, task, metric, False) for task in arena.tasks}


def dense_score(arena: Arena, task: str, metric: Metric) -> float:
    """Return the dense network's score, 0 where it is not known."""
    facts = arena.task_facts[task]
    of_search = metric == "search_accuracy"
    return (facts.dense_search_accuracy if of_search else facts.dense.test_accuracy) or 0.0


def _seeds(
    arena: Arena, agent: str, task: str, metric: Metric, from_dense: bool
) -> dict[int, float]:
    base = dense_score(arena, task, metric) if from_dense else 0.0
    return {run.seed: (getattr(run, metric) or 0.0) - base for run in arena.of(task, agent)}


def equal_time(arena: Arena) -> tuple[dict[str, float], Bootstrap | None]:
    """Return a time in seconds for each task, and the scores that searches had reached by then.

    The time is the median over agents of the median cost of their searches: half of the agents have
    been given less than they took, half have ended. Who has no plan by then counts as a score of 0.
    """
    agents = arena.labels()
    if len(agents) < 2:
        return {}, None
    times = {
        task: float(np.median([np.median([r.wall_s for r in arena.of(task, a)]) for a in agents]))
        for task in arena.tasks
    }
    reached = {
        agent: {
            task: [_reached(run, times[task]) or 0.0 for run in arena.of(task, agent)]
            for task in arena.tasks
        }
        for agent in agents
    }
    return times, Bootstrap(reached)


def _reached(run: Bouted, seconds: float) -> float | None:
    """Return the best score that a search had by then, ``None`` without one."""
    place = int(np.searchsorted(run.seconds, seconds, side="right")) - 1
    return run.best[place] if place >= 0 else None


def curves_by_evaluations(arena: Arena, task: str) -> list[Curve]:
    """Return each agent's best score after so many evaluations, to the longest search's number.

    A search that has ended keeps its best.
    """
    longest = max((run.evaluations for run in arena.of(task)), default=0)
    places = np.arange(1, longest + 1)
    curves = []
    for agent in arena.labels(task):
        rows = [
            [*run.best, *[run.best[-1] if run.best else None] * (longest - len(run.best))]
            for run in arena.of(task, agent)
        ]
        curves.append(_curve(agent, places.astype(float), rows))
    return curves


def curves_by_seconds(arena: Arena, task: str, places: int = 120) -> list[Curve]:
    """Return each agent's best score after so many seconds of search, evenly in their logarithm."""
    runs = [run for run in arena.of(task) if run.seconds]
    first = max(1e-3, min((run.seconds[0] for run in runs), default=0.0))
    last = max(1.01 * first, max((run.seconds[-1] for run in runs), default=0.0))
    at = np.geomspace(first, last, places)
    at[-1] = last  # what came last is there, however its logarithm was rounded
    return [
        _curve(agent, at, [[_reached(run, t) for t in at] for run in arena.of(task, agent)])
        for agent in arena.labels(task)
    ]


def _curve(agent: str, at: Floats, rows: Sequence[Sequence[float | None]]) -> Curve:
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=float)
    known = np.isfinite(values).all(axis=0)
    mean, low, high = (np.full(len(at), np.nan) for _ in range(3))
    mean[known] = interquartile_mean(values[:, known].T)
    if len(rows) == 1:
        return Curve(agent, 1, at, mean, mean, mean)
    drawn = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    redrawn = interquartile_mean(np.moveaxis(values[:, known][drawn], 1, -1))
    low[known], high[known] = np.percentile(redrawn, [2.5, 97.5], axis=0)
    return Curve(agent, len(rows), at, mean, low, high)


def correlations(arena: Arena, score: Literal["best", "search_accuracy"]) -> list[Correlation]:
    """Return, for each task, how a score of the winners goes with accuracy after fine-tuning.

    ``best`` is what the search went by, ``search_accuracy`` that on the whole split. Left out are
    tasks with fewer than three winners, or equal ones.
    """
    found = []
    for task in arena.tasks:
        both = [
            (run.best[-1:] if score == "best" else [run.search_accuracy], run)
            for run in arena.of(task)
        ]
        pairs = [
            (value, run.finetuned_test_accuracy)
            for values, run in both
            for value in values
            if None not in (value, run.finetuned_test_accuracy)
        ]
        x, y = np.array(pairs, dtype=float).reshape(-1, 2).T
        if len(pairs) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        rank, linear = spearmanr(x, y).statistic, pearsonr(x, y).statistic
        found.append(Correlation(task, len(pairs), float(rank), float(linear)))
    return found


def fronts(arena: Arena) -> list[Front]:
    """Return each agent's winners on networks that several tasks search, by predicted latency.

    Those tasks differ in their budgets, so that a seed's winners are a front. The hypervolume's
    worst point is the dense network less ``WORST`` of accuracy, on test after fine-tuning where
    there was any; 1 would be the dense network's accuracy in no time.
    """
    networks: dict[tuple[str, int], list[str]] = {}
    for task in arena.tasks:
        facts = arena.task_facts[task]
        networks.setdefault((facts.network, facts.batch_size), []).append(task)
    found = []
    for (network, _), tasks in networks.items():
        dense = arena.task_facts[tasks[0]].dense
        if len(tasks) < 2 or not dense.predicted_latency_s or dense.test_accuracy is None:
            continue
        worst = Point(dense.predicted_latency_s, dense.test_accuracy - WORST)
        if worst.accuracy >= dense.test_accuracy:  # a number that large has no area below it
            continue
        for agent in (a for a in arena.agents if all(arena.of(t, a) for t in tasks)):
            by_seeds: dict[int, list[Point]] = {}
            for run in (run for task in tasks for run in arena.of(task, agent)):
                own = by_seeds.setdefault(run.seed, [])
                tuned = run.finetuned_test_accuracy
                accuracy = run.test_accuracy if tuned is None else tuned
                if run.predicted_latency_s is not None and accuracy is not None:
                    own.append(Point(run.predicted_latency_s, accuracy))
            volumes = tuple(hypervolume(p, worst, dense.test_accuracy) for p in by_seeds.values())
            points = tuple(point for own in by_seeds.values() for point in own)
            found.append(Front(network, agent, points, volumes))
    return found
