"""How many weights a pattern stores, and in how many bytes, without packing anything."""

from __future__ import annotations

import math

from amc.kernels import block, nm
from amc.kernels.csr import BLOCK_UP_TO_SPARSITY
from amc.kernels.depth import ceil_to
from amc.kernels.packed import SPARE
from amc.kernels.patterns import KEEP

VALUE, INDEX, START, LAYOUT = 4, 2, 4, 32  # bytes of a value, an index, a start; of the layout


def stored_weights(pattern: str, shape: tuple[int, int, int], density: float) -> int:
    """Return how many weights of ``shape`` (outputs, inputs, taps) are not zeros of the pattern.

    ``density`` is the fraction that stays; "2:4" and "1:4" have their own.
    """
    rows, channels, taps = shape
    if pattern in KEEP:
        whole, rest = divmod(channels, 4)
        return rows * taps * (whole * KEEP[pattern] + min(rest, KEEP[pattern]))
    size = math.prod(shape)
    return size - round((1 - density) * size)


def packed_bytes(pattern: str, shape: tuple[int, int, int], density: float) -> int:
    """Return the bytes of ``amc.kernels.packed.Packed`` for a weight of ``shape``.

    ``shape`` and ``density`` are as in ``stored_weights``. For "4x1" whole blocks are counted.
    """
    rows, channels, taps = shape
    if pattern in KEEP:
        depth, keep = taps * ceil_to(channels, 4), KEEP[pattern]
        whole, rest = divmod(depth, nm.BLOCK)
        words = whole * -(-keep * (nm.BLOCK // 4) // 16) + -(-keep * (rest // 4) // 16)
        return rows * (VALUE * keep * (depth // 4) + 4 * words) + LAYOUT
    depth = taps * channels
    if pattern == "4x1":
        groups, length, values_a_slot = -(-rows // block.ROWS), block.BLOCK, block.ROWS
        slots = groups * depth - round((1 - density) * (groups * depth))
    else:
        length = next(b for limit, b in BLOCK_UP_TO_SPARSITY if 1 - density <= limit + 1e-9)
        groups, values_a_slot = rows, 1
        slots = stored_weights(pattern, shape, density)
    starts = groups * -(-depth // length) + 1
    arrays = VALUE * (values_a_slot * slots + SPARE) + INDEX * (slots + SPARE) + START * starts
    return arrays + LAYOUT
