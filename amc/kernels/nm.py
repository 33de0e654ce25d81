"""``nm``: 2 or 1 of every 4 consecutive input channels, with 2-bit indices."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc.errors import InputError
from amc.kernels import core
from amc.kernels.depth import as_matrix, blocked, ceil_to, depth_of
from amc.kernels.family import Entries, Sparse
from amc.kernels.packed import (
    FEW_COLUMNS,
    FEW_COLUMNS_HALF,
    SPMM,
    Packed,
    check_frame,
    expect,
    expect_layout,
    nothing,
    packed_from,
    refuse,
)
from amc.kernels.patterns import KEEP, first_violation

BLOCK = 64  # of depth: with panels of 8 vectors of columns, 16 or 32 KiB of a first-level cache
LANES = 16  # output rows that the few-columns form computes together
# Measured on weights from 512 x 512 to 3072 x 768; without a permutation by lanes it never pays.
FEW_COLUMNS_OF = {"c-avx512": 24, "c-avx2": 6, "c-baseline": 0}
_WORD = 16  # 2-bit indices in a uint32


class Nm(Sparse):
    """Compressed values and 2-bit indices; ``pack`` refuses a weight that has not the pattern."""

    name: ClassVar[str] = "nm"
    patterns: ClassVar[tuple[str, ...]] = tuple(KEEP)
    channel_multiple: ClassVar[int] = 4

    @staticmethod
    def most_few_columns(rows: int) -> int:
        """Return up to how many columns the form whose lanes are rows is the faster one."""
        return FEW_COLUMNS_OF.get(core.backend(), 3)

    @staticmethod
    def pack(
        weight: Tensor, pattern: str | None = None, *, few_columns: bool = False, half: bool = False
    ) -> Packed:
        """Return ``weight`` packed; ``few_columns`` is the form for linear layers of few columns.

        ``half`` rounds the values of that form to float16. Raises ``InputError`` where a group of 4
        has more non-zeros than ``pattern`` ("2:4" unless given) allows.
        """
        pattern = Nm.known_pattern(pattern or "2:4")
        matrix, keep = as_matrix(weight, 4), KEEP[pattern]
        violation = first_violation(weight, pattern)
        if violation:
            raise InputError(violation)
        values, indices = _compressed(matrix, keep)
        if few_columns:
            Nm.needs_linear(weight)
            form = FEW_COLUMNS_HALF if half else FEW_COLUMNS
            arrays = _in_lanes(values, indices, half)
            layout = (form, matrix.shape[1], 0, keep)
        elif half:
            raise InputError("half=True needs few_columns=True: no other form has float16 values")
        else:
            arrays = _in_blocks(values, indices, keep)
            layout = (SPMM, matrix.shape[1], BLOCK, keep)
        packed_arrays = (*arrays, nothing(np.uint32))
        return packed_from(Nm.name, pattern, weight.shape, layout, packed_arrays)

    @staticmethod
    def entries(packed: Packed) -> Entries:
        """Return row, depth and value of every stored weight; the zeros that fill are stored."""
        form, depth, block, keep = packed.layout
        if form == SPMM:
            values, places = _from_blocks(packed, depth, block, keep)
        else:
            values, places = _from_lanes(packed, depth, keep)
        rows, groups, _ = values.shape
        first = 4 * np.arange(groups)[:, None]
        owner = np.repeat(np.arange(rows), groups * keep)
        return owner, (places.astype(np.int64) + first).ravel(), values.ravel()

    @staticmethod
    def check(packed: Packed) -> list[int]:
        """Return the layout; raise ``InputError`` for anything that is corrupt."""
        form, _, block, _ = check_frame(packed, Nm.name, Nm.patterns)
        rows, keep, depth = packed.shape[0], KEEP[packed.pattern], depth_of(packed.shape, 4)
        if form == SPMM:
            if block <= 0 or block % 64 or block > 65536:
                raise refuse(packed, "layout", "have a block that is a multiple of 64", block)
            expect_layout(packed, (SPMM, depth, block, keep))
            whole, rest = divmod(depth, block)
            words = whole * -(-keep * (block // 4) // _WORD) + -(-keep * (rest // 4) // _WORD)
            expect(packed, "values", torch.float32, rows * keep * (depth // 4))
            expect(packed, "indices", torch.uint32, rows * words)
        else:
            Nm.few_columns_form(packed, (FEW_COLUMNS, FEW_COLUMNS_HALF))
            expect_layout(packed, (form, depth, 0, keep))
            lanes = ceil_to(rows, LANES) * keep * (depth // 4)
            expect(packed, "values", torch.float32 if form == FEW_COLUMNS else torch.float16, lanes)
            expect(packed, "indices", torch.uint32, lanes // LANES)
        expect(packed, "starts", torch.uint32, 0)
        return packed.layout


def _compressed(matrix: NDArray[np.float32], keep: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return values and places within their group, both ``[rows, groups, keep]``.

    A group with fewer non-zeros is filled with its first zeros.
    """
    groups = matrix.reshape(matrix.shape[0], -1, 4)
    order = np.argsort(groups == 0, axis=2, kind="stable")[:, :, :keep]
    places = np.sort(order, axis=2)
    return np.take_along_axis(groups, places, axis=2), places.astype(np.uint32)


def _words(places: NDArray[Any]) -> NDArray[np.uint32]:
    """Return 2-bit places ``[..., n]`` in words ``[..., ceil(n / 16)]``, the first one lowest."""
    n = places.shape[-1]
    padded = np.zeros((*places.shape[:-1], ceil_to(n, _WORD)), dtype=np.uint32)
    padded[..., :n] = places
    shifts = 2 * np.arange(_WORD, dtype=np.uint32)
    apart = padded.reshape(*places.shape[:-1], -1, _WORD) << shifts
    words: NDArray[np.uint32] = np.bitwise_or.reduce(apart, axis=-1)
    return words


def _places(words: NDArray[np.uint32], n: int) -> NDArray[np.uint32]:
    """Return the first ``n`` places of words ``[..., w]``."""
    shifts = 2 * np.arange(_WORD, dtype=np.uint32)
    places = (words[..., None] >> shifts) & np.uint32(3)
    return places.reshape(*words.shape[:-1], -1)[..., :n]


def _in_blocks(
    values: NDArray[Any], indices: NDArray[Any], keep: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return values and index words block by block, row by row."""
    rows, per_block = len(values), BLOCK // 4 * keep
    flat, places = values.reshape(rows, -1), indices.reshape(rows, -1)
    whole = flat.shape[1] // per_block * per_block
    parts, words = [], []
    for cut in (slice(0, whole), slice(whole, None)):  # the whole blocks, and the shorter last one
        if flat[:, cut].size:
            size = per_block if cut.start == 0 and whole else flat[:, cut].shape[1]
            parts.append(blocked(flat[:, cut], size).ravel())
            words.append(_words(blocked(places[:, cut], size)).ravel())
    return np.concatenate(parts), np.concatenate(words)


def _from_blocks(
    packed: Packed, depth: int, block: int, keep: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    rows, groups = packed.shape[0], depth // 4
    values = packed.tensors["values"].numpy()
    words = packed.tensors["indices"].numpy()
    parts, places, value_at, word_at = [], [], 0, 0
    for start in range(0, groups, block // 4):
        n = keep * min(block // 4, groups - start)
        per_row = -(-n // _WORD)
        parts.append(values[value_at : value_at + rows * n].reshape(rows, n))
        block_words = words[word_at : word_at + rows * per_row].reshape(rows, per_row)
        places.append(_places(block_words, n))
        value_at, word_at = value_at + rows * n, word_at + rows * per_row
    shape = (rows, groups, keep)
    return np.hstack(parts).reshape(shape), np.hstack(places).reshape(shape)


def _in_lanes(
    values: NDArray[Any], indices: NDArray[Any], half: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return values ``[row blocks, groups, keep, 16]`` and one word of indices for each 16."""
    rows, groups, keep = values.shape
    extra = ((0, ceil_to(rows, LANES) - rows), (0, 0), (0, 0))
    shape = (-1, LANES, groups, keep)
    lanes = np.pad(values, extra).reshape(shape).transpose(0, 2, 3, 1)
    places = np.pad(indices, extra).reshape(shape).transpose(0, 2, 3, 1)
    if half:
        lanes = _as_half(lanes)
    return np.ascontiguousarray(lanes).ravel(), _words(places).ravel()


def _as_half(values: NDArray[Any]) -> NDArray[np.float16]:
    finite = np.isfinite(values)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if np.any(finite & ~np.isfinite(halves)):
        largest = float(np.abs(values[finite]).max())
        raise InputError(
            f"half=True holds weights up to 65504, but the largest is {largest:g}; use half=False"
        )
    return halves


def _from_lanes(packed: Packed, depth: int, keep: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rows, groups = packed.shape[0], depth // 4
    lanes = packed.tensors["values"].numpy().astype(np.float32).reshape(-1, groups, keep, LANES)
    places = _places(packed.tensors["indices"].numpy()[:, None], LANES).reshape(lanes.shape)
    back = (0, 3, 1, 2)
    shape = (-1, groups, keep)
    return lanes.transpose(back).reshape(shape)[:rows], places.transpose(back).reshape(shape)[:rows]
