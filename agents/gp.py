"""``gp``: a Gaussian process, and where it expects most improvement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from agents.ask_and_tell import AskAndTellAgent
from agents.base import require_number
from amc.search_task import SearchTask

MONTE_CARLO = 64  # draws of what a batch's other plans come to, for one expected improvement
TOLERANCE = 1e-2  # of the gradient (its square) at which an ascent ends


class GPAgent(AskAndTellAgent):
    """Bayesian optimisation with a Gaussian process (Snoek et al., NeurIPS 2012, section 2), by
    Optuna; what it is asked and told: ``AskAndTellAgent``.

    The kernel is Matern 5/2 with a length scale a site, of largest posterior density at each plan;
    the acquisition is the logarithm of the expected improvement (Ament et al., NeurIPS 2023), over
    what the plans of the batch so far may come to. The first ``startup`` plans, those that it
    starts from among them, come before: random ones. Evaluations count as noisy, though they are
    not: rounding to legal widths looks like noise to a process over keep ratios.

    To find the acquisition's maximum Optuna takes 2048 points and climbs from 10 of them, which
    costs up to half a second a plan. Here ``points`` and ``climbs`` are fewer and a climb ends
    earlier, which takes a fifth of the time, and plans came out as good.
    """

    def __init__(
        self,
        *,
        start: str = "analytic",
        redraws: int = 100,
        startup: int = 10,
        points: int = 256,
        climbs: int = 2,
    ) -> None:
        super().__init__("gp", start, redraws)
        require_number("agents.gp.startup", startup, 1, whole=True)
        require_number("agents.gp.points", points, 1, whole=True)
        require_number("agents.gp.climbs", climbs, 2, whole=True)
        self.startup, self.points, self.climbs = startup, points, climbs

    def sampler(
        self, task: SearchTask, space: Mapping[str, BaseDistribution], best: dict[str, float]
    ) -> BaseSampler:
        """Return Optuna's sampler; what it knows of the first plans stands in the study."""
        return ThriftySampler(task.seed % 2**32, self.startup, self.points, self.climbs)


class ThriftySampler(GPSampler):
    """Optuna's sampler with less effort on the acquisition, for which it has no options."""

    def __init__(self, seed: int, startup: int, points: int, climbs: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        self._n_preliminary_samples = points
        self._n_local_search = climbs
        self._n_qmc_samples_qei = MONTE_CARLO
        self._tol = TOLERANCE

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters to ask for, found with one thread: more only wait for each other.

        Sums come out the same then however many cores there are.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            torch.set_num_threads(threads)
