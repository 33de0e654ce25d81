"""``cma_es``: a normal distribution that moves and turns (Hansen, arXiv:1604.00772)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import ClassVar

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler

from agents.ask_and_tell import AskAndTellAgent
from agents.base import require_number
from amc.search_task import SearchTask


class CMAESAgent(AskAndTellAgent):
    """The evolution strategy with covariance matrix adaptation ("The CMA Evolution Strategy: A
    Tutorial", figure 6), by Optuna; what it is asked and told: ``AskAndTellAgent``.

    The distribution starts at the better one of the first plans, the middle of all ranges where
    there is none, with deviation ``sigma`` in each parameter, as a fraction of its range. A
    generation is of ``population`` plans; by default of 4 + 3 ln L (equation 48), rounded up to
    whole batches, so that no plan is asked for of a generation that is complete. Deviations:
    parameters have ranges, and draws beyond them are repeated; without first plans the first batch
    is drawn at random.
    """

    packages: ClassVar[tuple[str, ...]] = ("optuna", "cmaes")

    def __init__(
        self,
        *,
        start: str = "analytic",
        redraws: int = 100,
        sigma: float = 0.15,
        population: int | None = None,
    ) -> None:
        super().__init__("cma_es", start, redraws)
        require_number("agents.cma_es.sigma", sigma, 1e-6, 1.0)
        if population is not None:
            require_number("agents.cma_es.population", population, 2, whole=True)
        self.sigma, self.population = sigma, population

    def sampler(
        self, task: SearchTask, space: Mapping[str, BaseDistribution], best: dict[str, float]
    ) -> BaseSampler:
        """Return Optuna's sampler, which starts from ``best``."""
        with warnings.catch_warnings():
            # Where and how widely it starts are options that Optuna means to drop in version 6.
            warnings.simplefilter("ignore", FutureWarning)
            return CmaEsSampler(
                seed=task.seed % 2**32,
                x0=dict(best) or None,
                sigma0=self.sigma,
                popsize=self.population or whole_batches(len(space), task.walks),
                warn_independent_sampling=False,
            )


def whole_batches(parameters: int, walks: int) -> int:
    """Return Hansen's population for so many parameters, rounded up to batches of ``walks``."""
    population = 4 + math.floor(3 * math.log(max(1, parameters)))
    return math.ceil(population / walks) * walks
