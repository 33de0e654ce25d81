"""``NetworkCostModel``: what a network costs at any widths of its sites, from a measured table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc.cost_lookup import Grids, Priced, Rows
from amc.errors import InputError
from amc.latency.table import LatencyTable
from amc.network_structure import Floats, Ints, NetworkStructure
from amc.pattern_costs import KERNELS, PatternCosts


@dataclass(frozen=True)
class OpCost:
    """One line of a breakdown: an operation, its widths, and what it costs for one batch."""

    layer: str
    kernel: str
    dims: tuple[int, ...]
    latency_s: float
    macs: int

    @property
    def name(self) -> str:
        """The operation's name alone."""
        return self.kernel.partition(":")[2].partition("(")[0]


class NetworkCostModel:
    """Prices candidates of one network with one table; an ``amc.cost.CostModel``.

    Raises ``InputError`` at once where ``table`` lacks a kernel or width that a candidate can need.
    """

    def __init__(self, structure: NetworkStructure, table: LatencyTable) -> None:
        self.structure = structure
        self.table = table
        self._dims = Rows(structure.dims, [len(op.dims) for op in structure.ops])
        self._parameters = Rows(structure.shapes, structure.ranks)
        self._grids, self._seconds = _dense(structure, table)
        self._patterns = PatternCosts(structure, table) if structure.patterned else None

    def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return for each field of ``Cost`` an array ``[B]``, for legal ``widths`` ``[B, sites]``.

        MACs and parameters are those of stored weights, without the zeros of a pattern. Raises
        ``InputError`` for a width that is not legal.
        """
        priced, _ = self._priced(widths)
        return {
            "latency_s": priced.seconds.sum(axis=1),
            "macs": np.rint(priced.macs.sum(axis=1) / self.structure.batch_size),
            "params": priced.sizes.sum(axis=1),
            "weight_bytes": priced.weight_bytes.sum(axis=1),
        }

    def kernels(self, widths: Sequence[int]) -> dict[str, str]:
        """Return what runs the layer of each site that decides on weights, by the site's name.

        It is the fastest of the kernels in the table that can, torch's dense one included.
        """
        if self._patterns is None:
            return {}
        one = np.asarray([widths], dtype=np.int64)
        found = self._patterns.kernels(self._dims.at(self.structure.removed(one)), one)[0]
        sites = [self.structure.sites[its.site].name for its in self.structure.patterned]
        return {site: KERNELS[kernel] for site, kernel in zip(sites, found, strict=True)}

    def breakdown(self, widths: Sequence[int]) -> list[OpCost]:
        """Return what every operation of one candidate costs, in order of execution.

        A ReLU that a sparse layer runs itself costs nothing.
        """
        priced, dims = self._priced(np.asarray([widths]))
        keys = [op.kernel for op in self.structure.ops]
        kernels = self.kernels(widths)
        for its in self.structure.patterned:
            site = self.structure.sites[its.site]
            if kernels[site.name] != "dense":
                keys[its.op] = its.kernels[site.patterns[widths[its.site]]].key
        return [
            OpCost(op.layer, key, tuple(map(int, d[: len(op.dims)])), float(s), round(m))
            for op, key, d, s, m in zip(
                self.structure.ops, keys, dims[0], priced.seconds[0], priced.macs[0], strict=True
            )
        ]

    def layer_latencies(self, widths: Sequence[int]) -> dict[str, float]:
        """Return the seconds of each layer for one batch, with what follows it."""
        layers: dict[str, float] = {}
        for line in self.breakdown(widths):
            layers[line.layer] = layers.get(line.layer, 0.0) + line.latency_s
        return layers

    def _priced(self, widths: NDArray[np.int64]) -> tuple[Priced, Ints]:
        """Return what candidates cost, part by part, and the widths of their operations."""
        structure = self.structure
        removed = structure.removed(widths)
        dims = self._dims.at(removed)
        index = self._grids.at(dims)
        if index is None:
            raise _illegal(structure, removed)
        sizes = self._parameters.at(removed).astype(np.float64).prod(axis=2)
        priced = Priced(
            self._seconds[index],
            dims.astype(np.float64).prod(axis=2) * structure.macs_scale,
            sizes,
            sizes * structure.item_bytes,
        )
        if self._patterns is not None and not self._patterns.put(priced, dims, widths):
            raise _illegal(structure, removed)
        for block in structure.blocks:
            stays = np.asarray(widths)[:, block.site, None]
            for array in (priced.seconds, priced.macs):
                array[:, list(block.ops)] *= stays
            for array in (priced.sizes, priced.weight_bytes):
                array[:, list(block.parameters)] *= stays
        return priced, dims


def _dense(structure: NetworkStructure, table: LatencyTable) -> tuple[Grids, Floats]:
    """Return where the seconds of every operation at any widths stand, and the seconds."""
    requests = structure.kernel_requests()
    position = {request.template.key: i for i, request in enumerate(requests)}
    grids = Grids(
        [request.reachable for request in requests],
        [position[op.kernel] for op in structure.ops],
    )
    seconds = [
        table.latencies(request.template.key, points)
        for request, points in zip(requests, grids.points, strict=True)
    ]
    return grids, np.concatenate([*seconds, np.zeros(0)])


def _illegal(structure: NetworkStructure, removed: Ints) -> InputError:
    for site, gone in zip(structure.sites, removed.T, strict=True):
        for width in site.full - gone:
            if width not in site.widths:
                return InputError(
                    f"width {width} of site {site.name!r} is not legal; the nearest legal width is "
                    f"{site.nearest(float(width))}"
                )
    return InputError(
        "widths are legal at every site, but reach an operation that was not foreseen"
    )
