"""``csr``: unstructured weights, row by row within blocks of depth."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from amc.kernels.depth import as_matrix, blocked, depth_of
from amc.kernels.family import Entries, Sparse
from amc.kernels.packed import SPARE, SPMM, Packed, check_frame, expect_layout, packed_from, refuse
from amc.kernels.slots import MOST_BLOCK, check_blocked_slots, find_slots, slot_places

# Depth of a block for weights up to this sparsity: the fewer non-zeros, the longer a row's part
# must be for its fixed cost to count little.
BLOCK_UP_TO_SPARSITY: tuple[tuple[float, int], ...] = (
    (0.6, 64),
    (0.75, 96),
    (0.85, 128),
    (0.92, 256),
    (1.0, 384),
)


class Csr(Sparse):
    """Any sparsity; one form for any number of columns."""

    name: ClassVar[str] = "csr"
    patterns: ClassVar[tuple[str, ...]] = ("csr",)

    @staticmethod
    def pack(
        weight: Tensor, pattern: str | None = None, *, few_columns: bool = False, half: bool = False
    ) -> Packed:
        """Return ``weight`` packed; ``few_columns`` changes nothing, ``half`` is refused."""
        Csr.refuse_half(half)
        return pack_rows(weight, "csr", Csr.known_pattern(pattern or "csr"))

    @staticmethod
    def entries(packed: Packed) -> Entries:
        """Return row, depth and value of every stored weight."""
        return row_entries(packed)

    @staticmethod
    def check(packed: Packed) -> list[int]:
        """Return the layout; raise ``InputError`` for anything that is corrupt."""
        check_frame(packed, Csr.name, Csr.patterns)
        return check_rows(packed)


def pack_rows(weight: Tensor, kernel: str, pattern: str) -> Packed:
    """Return ``weight`` in the arrays of ``amc_csr``."""
    matrix = as_matrix(weight)
    sparsity = 1 - np.count_nonzero(matrix) / matrix.size
    block = next(block for limit, block in BLOCK_UP_TO_SPARSITY if sparsity <= limit)
    cube = blocked(matrix, block)
    found, starts, indices = find_slots(cube != 0)
    values = np.zeros(len(found) + SPARE, dtype=np.float32)
    values[: len(found)] = cube.ravel()[found]
    layout = (SPMM, matrix.shape[1], block, 0)
    return packed_from(kernel, pattern, weight.shape, layout, (values, indices, starts))


def row_entries(packed: Packed) -> Entries:
    """Return row, depth and value of every stored weight in the arrays of ``amc_csr``."""
    rows, depths = slot_places(packed, packed.shape[0])
    return rows, depths, packed.tensors["values"].numpy()[: len(rows)]


def check_rows(packed: Packed) -> list[int]:
    """Return the layout; raise ``InputError`` unless the arrays are those of ``amc_csr``."""
    block = packed.layout[2]
    if not 1 <= block <= MOST_BLOCK:
        raise refuse(packed, "layout", f"have a block from 1 to {MOST_BLOCK}", block)
    expect_layout(packed, (SPMM, depth_of(packed.shape), block, 0))
    check_blocked_slots(packed, packed.shape[0], width=1)
    return packed.layout
