"""``analytic``: greedy on the least-squares error curves; one evaluation, no search."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, require_choice
from agents.greedy_walk import Losses, greedy_widths
from amc.cost import BUDGET_KEYS
from amc.errors import InputError
from amc.reconstruction.curves import ErrorCurve
from amc.search_task import SearchTask
from amc.sites import Site

BUDGET = "budget"
ALL_BUT = 1e-9  # of what a site's consumers compute is the most that counts as lost


def analytic_losses(task: SearchTask) -> Losses:
    """Return what each site loses at each legal width by ``task.error_curves``, ``[L][widths]``.

    A site at relative error e loses -log(1 - e): that adds up where errors meet one after the
    other, as independent ones do. Raises ``InputError`` without a network.
    """
    curves = task.error_curves.sites
    return [_losses(site, curves) for site in task.sites]


def proportional_losses(task: SearchTask) -> Losses:
    """Return the losses ``[L][widths]`` of sites that nothing is known of: by their widths."""
    return [_losses(site, {}) for site in task.sites]


def analytic_widths(task: SearchTask, per: str | None = None) -> tuple[int, ...]:
    """Return widths ``[L]`` within the budget that lose little by ``task.error_curves``.

    They are those of ``greedy_widths``. Raises ``InputError`` without a network.
    """
    return greedy_widths(task, analytic_losses(task), per)


def demonstration(task: SearchTask) -> tuple[int, ...] | None:
    """Return ``analytic_widths``; where there are no curves ``None``, saying why."""
    if not task.has_error_curves:
        return None
    try:
        return analytic_widths(task)
    except InputError as error:
        task.notify(f"it starts without the analytic plan: {error}")
        return None


def _losses(site: Site, curves: Mapping[str, ErrorCurve]) -> NDArray[np.float64]:
    """Return what each legal width loses, ``[widths]``, in all layers with a curve that read it.

    A site that no such layer reads loses as if the share of its channels were its error.
    """
    widths = np.asarray(site.widths)
    errors = [1.0 - widths / site.full]
    if site.name in curves:
        errors = [layer[widths] for layer in curves[site.name].layers.values()]
    kept = 1.0 - np.clip(errors, 0.0, 1.0 - ALL_BUT)
    return np.asarray(-np.log(kept).sum(axis=0))


class AnalyticAgent(Agent):
    """The plan of ``analytic_widths``: what the closed form knows without evaluations.

    The errors are those of least squares on the dense network's inputs (He et al., ICCV 2017,
    arXiv:1707.06168, equation 1), for every width at once; see ``amc.reconstruction.curves``.
    ``per`` is what a step is to save much of for the error that it adds: ``budget``, or a cost that
    may be another one than what the budget bounds, such as ``macs``.
    """

    def __init__(self, *, per: str = BUDGET) -> None:
        require_choice("agents.analytic.per", per, (BUDGET, *BUDGET_KEYS))
        self.per = None if per == BUDGET else BUDGET_KEYS[per]

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the task has no network to take error curves from."""
        _ = task.error_curves

    def search(self, task: SearchTask) -> None:
        """Evaluate the one plan."""
        task.evaluate([task.plan(analytic_widths(task, self.per))])
