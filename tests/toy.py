"""A toy search with a known optimum: synthetic sites and costs, and no network."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amc.cost import Budget, cost_of, make_budget
from amc.evaluation import Evaluation, Request
from amc.objective import Objective, ResourceConstrained
from amc.plan import Choice, Plan
from amc.reconstruction.curves import ErrorCurve, ErrorCurves
from amc.search_task import SearchTask
from amc.sites import LayerShape, Site
from envs.pruning import PruningEnv
from envs.state import Convention

CHANNELS = (16, 16, 24, 32, 48, 64, 64, 96, 96, 128, 128, 160)
TIGHT = 0.3  # with slow narrow widths, below the cost of the smallest ones and above the cheapest
BUMP = 6  # a width of 6 modulo 8 runs slower than the next wider one


def make_sites(count: int, step: int = 4) -> tuple[Site, ...]:
    """Return a chain of ``count`` convolutions with widths in steps of ``step``."""
    sites = []
    for t, channels in enumerate(CHANNELS[:count]):
        first = max(step, int(0.2 * channels) // step * step)
        c_in = CHANNELS[t - 1] if t else 3
        size = 28 >> (t // 3)
        sites.append(
            Site(
                name=f"conv{t}",
                kind="conv",
                channels=channels,
                c_in=c_in,
                kernel_size=3 if t % 2 else 1,
                stride=2 if t and t % 3 == 0 else 1,
                height=size,
                width=size,
                macs=c_in * channels * (9 if t % 2 else 1) * size * size,
                widths=tuple(range(first, channels + 1, step)),
                layers=(f"conv{t}",),
                weights=c_in * channels * (9 if t % 2 else 1),
                consumer=LayerShape("conv", channels, 32, 3, 1, size, size, 288 * channels, 9 * 32),
            )
        )
    return tuple(sites)


class ToyCosts:
    """A chain's costs. Latency has an overhead, a memory term, and slow widths: not monotone."""

    def __init__(self, sites: Sequence[Site], slow_narrow: bool = False) -> None:
        self.sites = sites
        self.slow_narrow = slow_narrow

    def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        macs, params = np.zeros(len(widths)), np.zeros(len(widths))
        latency = np.full(len(widths), 1e-5)
        for t, site in enumerate(self.sites):
            c_in = widths[:, t - 1] if t else np.full(len(widths), site.c_in)
            weights = c_in * widths[:, t] * site.kernel_size**2
            slow = 1.0 + 0.3 * (widths[:, t] % 8 == BUMP) + 0.2 * (widths[:, t] % 8 == 4)
            params += weights
            macs += weights * site.height * site.width
            latency += 2e-6 + 1e-11 * weights * site.height * site.width * slow
            latency += 1e-9 * widths[:, t] * site.height
            latency += 1e-5 * (self.slow_narrow & (widths[:, t] == site.widths[0]))
        return {
            "latency_s": latency,
            "macs": macs,
            "params": params,
            "weight_bytes": 4 * params,
        }


class ToyEvaluator:
    """Scores ``1 - sum_j s_j (1 - keep_j)^2 - a coupling of neighbours``: smooth, known, instant.

    With ``disturb`` it draws from every global generator, as a real evaluation may.
    """

    def __init__(self, task_sites: Sequence[Site], budget: Budget, costs: ToyCosts) -> None:
        self.sites, self.budget, self.costs = task_sites, budget, costs
        self.disturb = False
        self.objective: Objective = ResourceConstrained()
        self.batches: list[list[Request]] = []
        self.kept: dict[str, Plan] = {}

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        self.batches.append(list(requests))
        if self.disturb:
            random.random()
            np.random.random(7)
            torch.rand(7)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Evaluation:
        widths = [len(choice.kept) for choice in request.plan.choices.values()]
        if request.parent is not None:
            for site, choice in request.plan.choices.items():
                assert set(choice.kept) <= set(self.kept[request.parent].choices[site].kept)
        cost = cost_of(self.costs, widths)
        score = float(toy_scores(self.sites, np.asarray([widths]))[0])
        key = request.digest("toy")
        self.kept[key] = request.plan
        reward = self.objective(score, cost, self.budget)
        return Evaluation(key, request, score, cost, reward)


def toy_scores(sites: Sequence[Site], widths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the score ``[B]`` of candidates ``[B, L]``."""
    keep = widths / np.asarray([site.channels for site in sites])
    lost = sensitivities(sites) * (1 - keep) ** 2
    narrow = 0.02 * ((keep[:, 1:] - keep[:, :-1]) ** 2).sum(axis=1)
    return np.asarray(1.0 - lost.sum(axis=1) - narrow)


def sensitivities(sites: Sequence[Site]) -> NDArray[np.float64]:
    """Return how much each site's narrowing costs ``[L]``."""
    return np.asarray(0.02 + 0.25 * np.abs(np.sin(1.7 * np.arange(len(sites)) + 0.5)) ** 3)


def toy_curves(sites: Sequence[Site]) -> ErrorCurves:
    """Return error curves that know of the scores all but the coupling of neighbours."""
    curves = {}
    for site, sensitivity in zip(sites, sensitivities(sites), strict=True):
        keep = np.arange(site.channels + 1) / site.channels
        curves[site.name] = ErrorCurve.of({"reader": sensitivity * (1 - keep) ** 2}, {"reader": 1})
    return ErrorCurves(curves)


def toy_task(
    *,
    sites: int = 6,
    key: str = "macs",
    fraction: float = 0.5,
    seed: int = 0,
    evaluations: int = 60,
    horizon: int | None = None,
    walks: int = 4,
    step: int = 4,
    slow_narrow: bool = False,
    objective: Objective | None = None,
    curves: bool = False,
) -> SearchTask:
    """Return a search over a toy chain, with or without error curves."""
    chain = make_sites(sites, step)
    costs = ToyCosts(chain, slow_narrow)
    budget = make_budget(key, fraction, costs, chain)
    evaluator = ToyEvaluator(chain, budget, costs)
    evaluator.objective = objective or evaluator.objective

    def plan_maker(widths: Sequence[int], parent: str | None) -> Plan:
        choices = {}
        for site, width in zip(chain, widths, strict=True):
            pool: Sequence[int] = range(site.channels)
            if parent is not None:
                pool = evaluator.kept[parent].choices[site.name].kept
            ranked = sorted(pool, key=lambda channel: channel * 7919 % 104729)
            kept = tuple(sorted(ranked[:width]))
            assert len(kept) == width
            choices[site.name] = Choice(width / site.channels, kept)
        return Plan(choices)

    return SearchTask(
        sites=chain,
        cost_model=costs,
        budget=budget,
        evaluator=evaluator,
        plan_maker=plan_maker,
        seed=seed,
        evaluations=evaluations,
        horizon=evaluations if horizon is None else horizon,
        walks=walks,
        wall=evaluator.objective.needs_wall(budget),
        curve_maker=(lambda: toy_curves(chain)) if curves else None,
    )


@cache
def toy_optimum(sites: int, key: str, fraction: float, step: int = 4) -> float:
    """Return the best score of all legal plans within the budget, by trying each of them."""
    task = toy_task(sites=sites, key=key, fraction=fraction, step=step)
    best = -np.inf
    grids = itertools.product(*(site.widths for site in task.sites))
    while chunk := list(itertools.islice(grids, 200_000)):
        plans = np.asarray(chunk, dtype=np.int64)
        fits = task.budget.within(task.budget_costs(plans))
        if fits.any():
            best = max(best, float(toy_scores(task.sites, plans[fits]).max()))
    return best


def toy_env(sites: int = 6, fraction: float = 0.5, **convention: Any) -> PruningEnv:
    """Return an environment over a toy search with room for many episodes (an entry point)."""
    task = toy_task(sites=sites, fraction=fraction, evaluations=10_000)
    return PruningEnv(task, Convention(**convention))
