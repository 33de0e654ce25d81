"""Costs of plans: pure arithmetic on how wide every site is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from amc.errors import InputError
from amc.sites import Site


@dataclass(frozen=True)
class Cost:
    """What one plan costs. MACs and latency are those of one batch / one example as named.

    ``latency_s``: predicted seconds for one batch of the configured size; ``macs``:
    multiply-accumulates for one example; ``params``: learned numbers; ``weight_bytes``: their size.
    """

    latency_s: float
    macs: int
    params: int
    weight_bytes: int

    def as_json(self) -> dict[str, float]:
        """Return the cost as a dict of JSON numbers."""
        return asdict(self)

    def as_report(self) -> dict[str, float]:
        """Return the cost as reports name it, beside what is measured."""
        return {
            "macs": self.macs,
            "params": self.params,
            "weight_bytes": self.weight_bytes,
            "predicted_latency_s": self.latency_s,
        }


# A configuration's budget keys, and the field of ``Cost`` that each bounds.
BUDGET_KEYS = {
    "predicted_latency": "latency_s",
    "macs": "macs",
    "params": "params",
    "weight_bytes": "weight_bytes",
}


class CostModel(Protocol):
    """Prices many candidates at once; ``widths`` is ``[B, sites]``, in the order of the sites."""

    def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return for each field of ``Cost`` an array ``[B]``."""
        ...


def cost_of(model: CostModel, widths: Sequence[int]) -> Cost:
    """Return the cost of one candidate."""
    arrays = model.costs(np.asarray([widths], dtype=np.int64))
    return Cost(
        latency_s=float(arrays["latency_s"][0]),
        macs=int(arrays["macs"][0]),
        params=int(arrays["params"][0]),
        weight_bytes=int(arrays["weight_bytes"][0]),
    )


def width_costs(
    model: CostModel, sites: Sequence[Site], position: int, widths: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Return each field of ``Cost`` at every legal width of one site, the others at ``widths``.

    Arrays are as long as ``sites[position].widths``, in their order.
    """
    legal = sites[position].widths
    candidates = np.repeat(np.asarray([widths], dtype=np.int64), len(legal), axis=0)
    candidates[:, position] = legal
    return model.costs(candidates)


LATENCY_FLOOR = (
    ", or raise latency.batch_size: the rest is time that calls take whatever their widths"
)


@dataclass(frozen=True)
class Budget:
    """An upper bound on one cost: ``key`` of ``BUDGET_KEYS``, ``fraction`` of the dense network's.

    ``limit`` is the bound itself, in the unit of the cost.
    """

    key: str
    fraction: float
    limit: float

    @property
    def field(self) -> str:
        """The field of ``Cost`` that the budget bounds."""
        return BUDGET_KEYS[self.key]

    def met_by(self, cost: Cost) -> bool:
        """Return whether ``cost`` is within the budget."""
        return float(getattr(cost, self.field)) <= self.limit * (1 + 1e-12)

    def within(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return for each value of the budgeted cost whether it is within the budget.

        A hair stricter than ``met_by``: the last bit of a sum may depend on the batch it stands in.
        """
        return values <= self.limit * (1 + 5e-13)


def cheapest_widths(model: CostModel, sites: Sequence[Site], field: str) -> NDArray[np.int64]:
    """Return a complete candidate ``[sites]`` whose ``field`` of ``Cost`` no single change lowers.

    It starts from the smallest widths, so it never costs more than they do. In a latency table,
    which need not be monotone, a wider site can be the cheaper one.
    """
    widths = np.asarray([site.widths[0] for site in sites], dtype=np.int64)
    best = float(model.costs(widths[None])[field][0])
    improved = True
    while improved:
        improved = False
        for position, site in enumerate(sites):
            costs = width_costs(model, sites, position, widths.tolist())[field]
            index = int(np.argmin(costs))
            if costs[index] < best * (1 - 1e-9):
                widths[position], best, improved = site.widths[index], float(costs[index]), True
    return widths


def smallest_cost(model: CostModel, sites: Sequence[Site], field: str) -> float:
    """Return the lowest reachable ``field`` of ``Cost``, in its own unit."""
    return float(model.costs(cheapest_widths(model, sites, field)[None])[field][0])


def make_budget(key: str, fraction: float, model: CostModel, sites: Sequence[Site]) -> Budget:
    """Return the budget ``fraction`` of dense; ``InputError`` where no plan can reach it."""
    field = BUDGET_KEYS[key]
    dense = float(getattr(cost_of(model, [site.full for site in sites]), field))
    reachable = smallest_cost(model, sites, field) / dense
    if fraction < reachable:
        floor = np.ceil(reachable * 1000) / 1000
        raise InputError(
            f"budget.{key} {fraction:g} is below the smallest reachable {floor:g}; "
            "raise it or lower sites.min_keep_ratio"
            + (LATENCY_FLOOR if key == "predicted_latency" else "")
        )
    return Budget(key, fraction, fraction * dense)
