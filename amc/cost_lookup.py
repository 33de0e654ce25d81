"""Costs that were computed before, in flat arrays, read by index: no search ever interpolates.

``costs`` runs at every step of every walk; interpolating there would take longer than the walk.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amc.network_structure import Affine, Floats, Ints, slices

UNREACHABLE = -(1 << 40)


@dataclass(frozen=True)
class Priced:
    """What ``B`` candidates cost, part by part: arrays that may still be written to.

    ``seconds`` and ``macs``, of a batch, are ``[B, operations]``; ``sizes`` (numbers) and
    ``weight_bytes`` ``[B, parameters]``.
    """

    seconds: Floats
    macs: Floats
    sizes: Floats
    weight_bytes: Floats


class Rows:
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


class Grids:
    """Several grids laid end to end, and which of them each row of widths is looked up in.

    ``lattices`` has the ascending marks of each axis of each grid, ``rows[r]`` the grid of row r.
    """

    def __init__(self, lattices: Sequence[Sequence[Sequence[int]]], rows: Sequence[int]) -> None:
        indices: list[Ints] = [np.zeros(3, dtype=np.int64)]  # of the ones that fill up rows
        starts: list[int] = []
        axes: list[list[tuple[int, int]]] = []
        start, offset = 0, len(indices[0])
        for lattice in lattices:
            stride = points = int(np.prod([len(marks) for marks in lattice], dtype=np.int64))
            starts.append(start)
            axes.append([])
            for marks in lattice:
                stride //= len(marks)
                axes[-1].append((offset, marks[-1]))
                index = np.full(marks[-1] + 2, UNREACHABLE, dtype=np.int64)
                index[list(marks)] = np.arange(len(marks)) * stride
                indices.append(index)
                offset += len(index)
            start += points
        self._lattices = lattices
        self._index = np.concatenate(indices)
        self._start = np.array([starts[grid] for grid in rows], dtype=np.int64)
        shape = len(rows), max((len(axes[grid]) for grid in rows), default=0)
        self._offset, self._top = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
        for row, grid in enumerate(rows):
            for axis, (first, top) in enumerate(axes[grid]):
                self._offset[row, axis], self._top[row, axis] = first, top

    @property
    def points(self) -> list[Ints]:
        """The points ``[points, axes]`` of each grid, in the order of the flat arrays."""
        return [
            np.array(list(itertools.product(*lattice)), dtype=np.int64).reshape(-1, len(lattice))
            for lattice in self._lattices
        ]

    def at(self, dims: Ints) -> Ints | None:
        """Return where ``dims`` ``[B, rows, longest]`` stand in the flat arrays, ``[B, rows]``.

        ``None`` where one is no point of its grid. Shorter rows are filled up with ones.
        """
        # One beyond the largest mark is marked as unreachable, like every gap.
        inside = np.where((dims >= 0) & (dims <= self._top), dims, self._top + 1)
        index: Ints = self._index[self._offset + inside].sum(axis=2) + self._start
        return None if index.size and index.min() < 0 else index
