"""``NetworkCostModel``: what a network costs at any widths of its sites, from a measured table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc.errors import InputError
from amc.latency.table import LatencyTable
from amc.network_structure import Affine, Floats, Ints, NetworkStructure, slices

UNREACHABLE = -(1 << 40)


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
        ranks = [len(op.dims) for op in structure.ops]
        self._dims = _Rows(structure.dims, ranks)
        self._parameters = _Rows(structure.shapes, structure.ranks)
        self._lookup = _Lookup(structure, table)

    def costs(self, widths: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return for each field of ``Cost`` an array ``[B]``, for legal ``widths`` ``[B, sites]``.

        Raises ``InputError`` for a width that is not legal.
        """
        removed = self.structure.removed(widths)
        dims = self._dims.at(removed)
        seconds = self._seconds(dims, removed)
        macs = dims.astype(np.float64).prod(axis=2) @ self.structure.macs_scale
        sizes = self._parameters.at(removed).astype(np.float64).prod(axis=2)
        return {
            "latency_s": seconds.sum(axis=1),
            "macs": np.rint(macs / self.structure.batch_size),
            "params": sizes.sum(axis=1),
            "weight_bytes": sizes @ self.structure.item_bytes.astype(np.float64),
        }

    def breakdown(self, widths: Sequence[int]) -> list[OpCost]:
        """Return what every operation of one candidate costs, in order of execution."""
        removed = self.structure.removed(np.asarray([widths]))
        dims = self._dims.at(removed)
        seconds = self._seconds(dims, removed)[0]
        macs = dims[0].astype(np.float64).prod(axis=1) * self.structure.macs_scale
        return [
            OpCost(op.layer, op.kernel, tuple(map(int, d[: len(op.dims)])), float(s), round(m))
            for op, d, s, m in zip(self.structure.ops, dims[0], seconds, macs, strict=True)
        ]

    def layer_latencies(self, widths: Sequence[int]) -> dict[str, float]:
        """Return the seconds of each layer for one batch, with what follows it."""
        layers: dict[str, float] = {}
        for line in self.breakdown(widths):
            layers[line.layer] = layers.get(line.layer, 0.0) + line.latency_s
        return layers

    def _seconds(self, dims: Ints, removed: Ints) -> Floats:
        seconds = self._lookup.seconds(dims)
        if seconds is None:
            raise _illegal(self.structure, removed)
        return seconds


class _Rows:
    """The numbers of an ``Affine`` as rows of given lengths, filled up with ones."""

    def __init__(self, numbers: Affine, lengths: Sequence[int]) -> None:
        self._shape = (-1, len(lengths), max(lengths, default=0))
        dense = np.ones(self._shape[1:])
        coefficients = np.zeros((len(numbers.coefficients), *self._shape[1:]))
        for row, part in enumerate(slices(lengths)):
            dense[row, : lengths[row]] = numbers.dense[part]
            coefficients[:, row, : lengths[row]] = numbers.coefficients[:, part]
        flat = coefficients.reshape(len(coefficients), dense.size)
        self._numbers = Affine(dense.ravel(), flat)

    def at(self, removed: Ints) -> Ints:
        """Return the rows ``[B, rows, longest]``."""
        return self._numbers.at(removed).reshape(self._shape)


class _Lookup:
    """Every operation's seconds at all reachable widths in one flat array, read by index.

    ``costs`` runs at every step of every walk; interpolating there would take longer than the walk.
    """

    def __init__(self, structure: NetworkStructure, table: LatencyTable) -> None:
        seconds: list[Floats] = []
        indices: list[Ints] = [np.zeros(3, dtype=np.int64)]  # of the ones that fill up rows
        blocks: dict[str, tuple[int, list[tuple[int, int]]]] = {}
        for request in structure.kernel_requests():
            lattice, key = request.reachable, request.template.key
            points = np.array(list(itertools.product(*lattice)), dtype=np.int64)
            stride = len(points)
            start, axes = sum(map(len, seconds)), []
            seconds.append(table.latencies(key, points.reshape(stride, len(lattice))))
            for widths in lattice:
                stride //= len(widths)
                axes.append((sum(map(len, indices)), widths[-1]))
                index = np.full(widths[-1] + 2, UNREACHABLE, dtype=np.int64)
                index[list(widths)] = np.arange(len(widths)) * stride
                indices.append(index)
            blocks[key] = start, axes
        shape = len(structure.ops), max((len(op.dims) for op in structure.ops), default=0)
        self._seconds = np.concatenate([*seconds, np.zeros(0)])
        self._index = np.concatenate(indices)
        self._start = np.array([blocks[op.kernel][0] for op in structure.ops], dtype=np.int64)
        self._offset, self._top = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
        for row, op in enumerate(structure.ops):
            for axis, (offset, top) in enumerate(blocks[op.kernel][1]):
                self._offset[row, axis], self._top[row, axis] = offset, top

    def seconds(self, dims: Ints) -> Floats | None:
        """Return the seconds of every operation ``[B, ops]``, ``None`` for widths out of reach."""
        # One beyond the largest reachable width is marked as unreachable, like every gap.
        inside = np.where((dims >= 0) & (dims <= self._top), dims, self._top + 1)
        index = self._index[self._offset + inside].sum(axis=2) + self._start
        if index.size and index.min() < 0:
            return None
        found: Floats = self._seconds[index]
        return found


def _illegal(structure: NetworkStructure, removed: Ints) -> InputError:
    for site, gone in zip(structure.sites, removed.T, strict=True):
        for width in site.channels - gone:
            if width not in site.widths:
                return InputError(
                    f"width {width} of site {site.name!r} is not legal; the nearest legal width is "
                    f"{site.nearest(float(width))}"
                )
    return InputError(
        "widths are legal at every site, but reach an operation that was not foreseen"
    )
