"""``csc``: unstructured weights, column by column where a single column skips zero activations."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from amc.errors import InputError
from amc.kernels.csr import check_rows, pack_rows, row_entries
from amc.kernels.depth import as_matrix, depth_of
from amc.kernels.family import Entries, Sparse
from amc.kernels.packed import (
    FEW_COLUMNS,
    SPARE,
    SPMM,
    Packed,
    check_frame,
    expect_layout,
    packed_from,
)
from amc.kernels.slots import check_slots

MOST_ROWS = 65536  # what an index, a uint16, can tell


class Csc(Sparse):
    """Any sparsity: the arrays of ``csr`` for many columns, those of ``amc_csc_gemv`` for few.

    The latter multiply no activation that is 0: a stored NaN or infinity that meets a 0 reaches no
    output then.
    """

    name: ClassVar[str] = "csc"
    patterns: ClassVar[tuple[str, ...]] = ("csc",)

    @staticmethod
    def most_few_columns(rows: int) -> int:
        """Return 1, for further columns share no skipped activations; 0 for too many rows."""
        return 1 if rows <= MOST_ROWS else 0

    @staticmethod
    def pack(
        weight: Tensor, pattern: str | None = None, *, few_columns: bool = False, half: bool = False
    ) -> Packed:
        """Return ``weight`` packed; ``few_columns`` is the form for linear layers of one column."""
        Csc.refuse_half(half)
        pattern = Csc.known_pattern(pattern or "csc")
        if not few_columns:
            return pack_rows(weight, Csc.name, pattern)
        Csc.needs_linear(weight)
        if weight.shape[0] > MOST_ROWS:
            raise InputError(
                f"csc for few columns holds at most {MOST_ROWS} rows, but got {weight.shape[0]}; "
                "use few_columns=False"
            )
        columns = np.ascontiguousarray(as_matrix(weight).T)
        found = np.flatnonzero(columns)
        starts = np.zeros(len(columns) + 1, dtype=np.uint32)
        starts[1:] = np.cumsum(np.count_nonzero(columns, axis=1))
        values = np.zeros(len(found) + SPARE, dtype=np.float32)
        values[: len(found)] = columns.ravel()[found]
        indices = np.zeros(len(found) + SPARE, dtype=np.uint16)
        indices[: len(found)] = found % columns.shape[1]
        layout = (FEW_COLUMNS, len(columns), 0, 0)
        return packed_from(Csc.name, pattern, weight.shape, layout, (values, indices, starts))

    @staticmethod
    def entries(packed: Packed) -> Entries:
        """Return row, depth and value of every stored weight."""
        if packed.form == SPMM:
            return row_entries(packed)
        starts = packed.tensors["starts"].numpy().astype(np.int64)
        rows = packed.tensors["indices"].numpy()[: starts[-1]].astype(np.int64)
        depths = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        return rows, depths, packed.tensors["values"].numpy()[: starts[-1]]

    @staticmethod
    def check(packed: Packed) -> list[int]:
        """Return the layout; raise ``InputError`` for anything that is corrupt."""
        form = check_frame(packed, Csc.name, Csc.patterns)[0]
        if form == SPMM:
            return check_rows(packed)
        Csc.few_columns_form(packed, (FEW_COLUMNS,))
        depth = depth_of(packed.shape)
        expect_layout(packed, (FEW_COLUMNS, depth, 0, 0))
        limits = np.broadcast_to(np.int64(packed.shape[0]), depth)
        check_slots(packed, depth, limits, width=1)
        return packed.layout
