"""``block``: 4 consecutive output rows share their non-zero columns (4x1 blocks)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from amc.kernels.depth import as_matrix, blocked, ceil_to, depth_of
from amc.kernels.family import Entries, Sparse
from amc.kernels.packed import SPARE, SPMM, Packed, check_frame, expect_layout, packed_from, refuse
from amc.kernels.slots import MOST_BLOCK, check_blocked_slots, find_slots, slot_places

BLOCK = 128  # of depth
ROWS = 4  # of output, in a block of weights


class Block(Sparse):
    """Blocks of 4 output rows and 1 column; zeros inside a stored block are multiplied."""

    name: ClassVar[str] = "block"
    patterns: ClassVar[tuple[str, ...]] = ("4x1",)

    @staticmethod
    def pack(
        weight: Tensor, pattern: str | None = None, *, few_columns: bool = False, half: bool = False
    ) -> Packed:
        """Return ``weight`` packed; ``few_columns`` changes nothing, ``half`` is refused.

        Every 4x1 block with a non-zero in it is stored whole, so any weight can be packed.
        """
        Block.refuse_half(half)
        pattern = Block.known_pattern(pattern or "4x1")
        matrix = as_matrix(weight)
        rows, depth = matrix.shape
        padded = np.pad(matrix, ((0, ceil_to(rows, ROWS) - rows), (0, 0)))
        groups = padded.reshape(-1, ROWS, depth)
        found, starts, indices = find_slots(blocked((groups != 0).any(axis=1), BLOCK))
        cubes = np.stack([blocked(groups[:, row], BLOCK).ravel()[found] for row in range(ROWS)], 1)
        values = np.zeros(cubes.size + SPARE, dtype=np.float32)
        values[: cubes.size] = cubes.ravel()
        layout = (SPMM, depth, BLOCK, 0)
        return packed_from(Block.name, pattern, weight.shape, layout, (values, indices, starts))

    @staticmethod
    def entries(packed: Packed) -> Entries:
        """Return row, depth and value of every stored weight."""
        owner, depths = slot_places(packed, ceil_to(packed.shape[0], ROWS) // ROWS)
        rows = (owner[:, None] * ROWS + np.arange(ROWS)).ravel()
        values = packed.tensors["values"].numpy()[: len(rows)]
        real = rows < packed.shape[0]
        return rows[real], np.repeat(depths, ROWS)[real], values[real]

    @staticmethod
    def check(packed: Packed) -> list[int]:
        """Return the layout; raise ``InputError`` for anything that is corrupt."""
        _, _, block, _ = check_frame(packed, Block.name, Block.patterns)
        if not 1 <= block <= MOST_BLOCK:
            raise refuse(packed, "layout", f"have a block from 1 to {MOST_BLOCK}", block)
        expect_layout(packed, (SPMM, depth_of(packed.shape), block, 0))
        check_blocked_slots(packed, ceil_to(packed.shape[0], ROWS) // ROWS, width=ROWS)
        return packed.layout
