"""``analytic``: greedy on the least-squares error curves; one evaluation, no search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent
from amc.cost import cheapest_widths
from amc.errors import InputError
from amc.search_task import SearchTask
from amc.sites import Site

# Legal widths from the present one: a table may make the nearest ones no cheaper.
DISTANCES = tuple(sorted({round(2 ** (e / 2)) for e in range(2, 24)} | {1}))
ALL_BUT = 1e-9  # of what a site's consumers compute is the most that counts as lost


def analytic_widths(task: SearchTask) -> tuple[int, ...]:
    """Return widths ``[L]`` within the budget that lose little by ``task.error_curves``.

    From the dense network on, the site and width is taken next that adds the least error for each
    unit of the budgeted cost that it saves, until the plan fits; then sites are widened again
    where that still fits, the largest error first. A site at relative error e loses -log(1 - e):
    that adds up where errors meet one after the other, as independent ones do. Where no step saves
    anything more, it goes on from the cheapest plan. Raises ``InputError`` without a network.
    """
    losses = [_losses(task, site) for site in task.sites]
    at = np.array([len(site.widths) - 1 for site in task.sites])
    cost = float(task.budget_costs(_widths(task, at[None]))[0])
    while not task.budget.within(np.array([cost]))[0]:
        steps = _steps(task, at, -1)
        costs = task.budget_costs(_widths(task, steps)) if len(steps) else np.zeros(0)
        saves = costs < cost * (1 - 1e-12)
        if not saves.any():
            cheapest = cheapest_widths(task.cost_model, task.sites, task.budget.field).tolist()
            at = np.array([s.widths.index(w) for s, w in zip(task.sites, cheapest, strict=True)])
            break
        steps, costs = steps[saves], costs[saves]
        best = int(np.argmin((_loss(losses, steps) - _loss(losses, at[None])) / (cost - costs)))
        at, cost = steps[best], float(costs[best])
    while len(steps := _steps(task, at, 1)):
        fits = task.budget.within(task.budget_costs(_widths(task, steps)))
        if not fits.any():
            break
        at = steps[fits][int(np.argmin(_loss(losses, steps[fits])))]
    return tuple(int(width) for width in _widths(task, at[None])[0])


def demonstration(task: SearchTask) -> tuple[int, ...] | None:
    """Return ``analytic_widths``; where there are no curves ``None``, saying why."""
    if not task.has_error_curves:
        return None
    try:
        return analytic_widths(task)
    except InputError as error:
        task.notify(f"it starts without the analytic plan: {error}")
        return None


def _losses(task: SearchTask, site: Site) -> NDArray[np.float64]:
    """Return what each legal width loses, ``[widths]``, in all layers with a curve that read it.

    A site that no such layer reads loses as if the share of its channels were its error.
    """
    curves = task.error_curves.sites
    widths = np.asarray(site.widths)
    errors = [1.0 - widths / site.full]
    if site.name in curves:
        errors = [layer[widths] for layer in curves[site.name].layers.values()]
    kept = 1.0 - np.clip(errors, 0.0, 1.0 - ALL_BUT)
    return np.asarray(-np.log(kept).sum(axis=0))


def _loss(losses: list[NDArray[np.float64]], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss ``[B]`` of plans ``[B, L]``, given as positions among each site's widths."""
    return np.asarray(np.sum([its[at[:, t]] for t, its in enumerate(losses)], axis=0))


def _steps(task: SearchTask, at: NDArray[np.int64], direction: int) -> NDArray[np.int64]:
    """Return the plans ``[B, L]`` with one site some of the ``DISTANCES`` wider or narrower."""
    rows = []
    for t, site in enumerate(task.sites):
        for far in DISTANCES:
            position = at[t] + direction * far
            if 0 <= position < len(site.widths):
                rows.append(at.copy())
                rows[-1][t] = position
    return np.array(rows, dtype=np.int64).reshape(-1, len(at))


def _widths(task: SearchTask, at: NDArray[np.int64]) -> NDArray[np.int64]:
    columns = [np.asarray(site.widths)[at[:, t]] for t, site in enumerate(task.sites)]
    return np.stack(columns, axis=1)


class AnalyticAgent(Agent):
    """The plan of ``analytic_widths``: what the closed form knows without evaluations.

    The errors are those of least squares on the dense network's inputs (He et al., ICCV 2017,
    arXiv:1707.06168, equation 1), for every width at once; see ``amc.reconstruction.curves``.
    """

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the task has no network to take error curves from."""
        _ = task.error_curves

    def search(self, task: SearchTask) -> None:
        """Evaluate the one plan."""
        task.evaluate([task.plan(analytic_widths(task))])
