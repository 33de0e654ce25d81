"""How many weights a pattern stores, and in how many bytes, without packing anything.

Rows (outputs) and channels (inputs) may be arrays of one length: costs of many widths at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc.kernels import block, nm
from amc.kernels.csr import BLOCK_UP_TO_SPARSITY
from amc.kernels.packed import SPARE
from amc.kernels.patterns import KEEP

VALUE, INDEX, START, LAYOUT = 4, 2, 4, 32  # bytes of a value, an index, a start; of the layout
Ints = NDArray[np.int64]


def stored_weights(
    pattern: str, rows: Any, channels: Any, kernel: tuple[int, ...], sparsity: float
) -> Ints:
    """Return how many weights ``[rows, channels, *kernel]`` are not zeros of the pattern.

    "2:4" and "1:4" have their own ``sparsity``. Exact but for "4x1" with rows that are no multiple
    of four, where it is the number that blocks have on average.
    """
    rows, channels, taps = np.asarray(rows), np.asarray(channels), math.prod(kernel)
    if pattern in KEEP:
        whole, rest = np.divmod(channels, 4)
        a_tap = whole * KEEP[pattern] + np.minimum(rest, KEEP[pattern])
        return np.asarray(rows * taps * a_tap, dtype=np.int64)
    if pattern == "4x1":
        kept = _left(_ceil(rows, block.ROWS) * channels * taps, sparsity)
        share = rows / (block.ROWS * _ceil(rows, block.ROWS))
        return np.asarray(np.rint(block.ROWS * kept * share), dtype=np.int64)
    unit = {"vector": kernel[-1] if kernel else 1, "kernel": taps}.get(pattern, 1)
    return np.asarray(unit * _left(rows * channels * taps // unit, sparsity), dtype=np.int64)


def packed_bytes(
    pattern: str, rows: Any, channels: Any, kernel: tuple[int, ...], sparsity: float
) -> Ints:
    """Return the bytes of ``amc.kernels.packed.Packed``; arguments are as in ``stored_weights``."""
    rows, channels, taps = np.asarray(rows), np.asarray(channels), math.prod(kernel)
    if pattern in KEEP:
        depth, keep = taps * 4 * _ceil(channels, 4), KEEP[pattern]
        whole, rest = np.divmod(depth, nm.BLOCK)
        words = whole * _ceil(keep * (nm.BLOCK // 4), 16) + _ceil(keep * (rest // 4), 16)
        return np.asarray(rows * (VALUE * keep * (depth // 4) + 4 * words) + LAYOUT)
    depth = taps * channels
    if pattern == "4x1":
        groups, length, values_a_slot = _ceil(rows, block.ROWS), block.BLOCK, block.ROWS
        slots = _left(groups * depth, sparsity)
    else:
        length = next(b for limit, b in BLOCK_UP_TO_SPARSITY if sparsity <= limit + 1e-9)
        groups, values_a_slot = rows, 1
        slots = stored_weights(pattern, rows, channels, kernel, sparsity)
    starts = groups * _ceil(depth, length) + 1
    arrays = VALUE * (values_a_slot * slots + SPARE) + INDEX * (slots + SPARE) + START * starts
    return np.asarray(arrays + LAYOUT)


def _left(units: Any, sparsity: float) -> Any:
    """Return how many of ``units`` stay; rounded as where the zeros are chosen."""
    return units - np.rint(sparsity * units).astype(np.int64)


def _ceil(number: Any, divisor: int) -> Any:
    return -(-number // divisor)
