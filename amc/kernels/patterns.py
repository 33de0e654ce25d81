"""Which zeros a pattern asks for: masks by magnitude, and whether a weight has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amc.errors import InputError
from amc.kernels.depth import as_matrix, as_weight, ceil_to

KEEP = {"2:4": 2, "1:4": 1}  # non-zeros in every 4 consecutive input channels
UNSTRUCTURED = ("csr", "csc")
PATTERNS = (*KEEP, *UNSTRUCTURED, "4x1")
# The registered kernel that runs a pattern.
KERNEL_OF = {"2:4": "nm", "1:4": "nm", "csr": "csr", "csc": "csc", "4x1": "block"}
# Zeros in whole rows of a kernel, or whole kernels: no kernel is made for them alone.
STORED_AS = {"vector": "csr", "kernel": "csr"}
ZEROS = (*PATTERNS, *STORED_AS)


def keep_largest(
    weight: Tensor,
    pattern: str,
    sparsity: float | None = None,
    scores: Tensor | None = None,
    *,
    within_rows: bool = False,
) -> Tensor:
    """Return a copy of ``weight`` with the lowest ``scores`` set to 0, as ``pattern`` asks.

    ``scores`` are not negative, in the shape of ``weight``; by default the magnitudes. "2:4" and
    "1:4" set their own sparsity; the others need ``sparsity``, in [0, 1]: exactly that fraction of
    the elements, or of blocks (by their sum of scores), rounded. Blocks are four outputs ("4x1"), a
    row of a kernel ("vector"), or all positions of a kernel ("kernel"). ``within_rows``: single
    elements compete within their output alone, and rows differ by one zero at most.
    """
    if pattern not in ZEROS:
        raise InputError(f"pattern {pattern!r} is unknown; known: {', '.join(ZEROS)}")
    if pattern in KEEP:
        own = 1 - KEEP[pattern] / 4
        if sparsity not in (None, own):
            raise InputError(
                f"`sparsity` for pattern {pattern!r} must be {own}, but got {sparsity}; "
                "choose 'csr' for other sparsities"
            )
        matrix = as_matrix(weight, 4)
        ranked = matrix if scores is None else as_matrix(scores, 4)
        return as_weight(np.where(_largest_of_four(ranked, KEEP[pattern]), matrix, 0), weight.shape)
    if sparsity is None or not 0 <= sparsity <= 1:
        raise InputError(
            f"`sparsity` for pattern {pattern!r} must lie in [0, 1], but got {sparsity}; "
            "it is the fraction of zeros"
        )
    matrix = as_matrix(weight)
    ranked = matrix if scores is None else as_matrix(scores)
    if pattern == "4x1":
        kept = _largest_blocks(ranked, sparsity)
    elif pattern in STORED_AS:
        kept = _largest_of_kernels(ranked, pattern, weight.shape, sparsity)
    elif within_rows:
        kept = _largest_within_rows(ranked, sparsity)
    else:
        kept = _largest(ranked, sparsity)
    return as_weight(np.where(kept, matrix, np.float32(0)), weight.shape)


def first_violation(weight: Tensor, pattern: str) -> str | None:
    """Return where ``weight`` has not the pattern, with the remedy; ``None`` where it has it.

    Unstructured patterns and "4x1" take any weight: what is not zero is stored.
    """
    if pattern not in KEEP:
        return None
    keep = KEEP[pattern]
    groups = as_matrix(weight, 4).reshape(weight.shape[0], -1, 4)
    counts = np.count_nonzero(groups, axis=2)
    if counts.max() <= keep:
        return None
    row, group = (int(at) for at in np.unravel_index(np.argmax(counts > keep), counts.shape))
    per_tap = ceil_to(weight.shape[1], 4) // 4
    tap, first = divmod(group, per_tap)
    channels = f"input channels {4 * first} to {min(4 * first + 3, weight.shape[1] - 1)}"
    at = f"output row {row}, {channels}"
    if weight.dim() == 4:
        at += f", kernel position {divmod(tap, weight.shape[3])}"
    return (
        f"pattern {pattern!r} allows {keep} non-zeros in 4 consecutive input channels, but got "
        f"{counts[row, group]} at {at} ({int((counts > keep).sum())} such groups); prune first, "
        "for example with amc.kernels.patterns.keep_largest"
    )


def _largest_of_four(matrix: NDArray[np.float32], keep: int) -> NDArray[np.bool_]:
    groups = np.abs(matrix).reshape(matrix.shape[0], -1, 4)
    order = np.argsort(-groups, axis=2, kind="stable")[:, :, :keep]
    kept = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(kept, order, True, axis=2)
    return kept.reshape(matrix.shape)


def _largest(scores: NDArray[Any], sparsity: float) -> NDArray[np.bool_]:
    """Return a mask of the largest ``scores``; exactly ``sparsity`` of them are left out."""
    magnitudes = np.abs(scores).ravel()
    zeros = round(sparsity * magnitudes.size)
    kept = np.ones(magnitudes.size, dtype=bool)
    if zeros:
        kept[np.argpartition(magnitudes, zeros - 1)[:zeros]] = False
    return kept.reshape(scores.shape)


def zeros_of_rows(total: int, rows: int) -> NDArray[np.int64]:
    """Return how many of ``total`` zeros each row has, ``[rows]``; they add up to it."""
    return (total + np.arange(rows)) // rows


def _largest_within_rows(scores: NDArray[Any], sparsity: float) -> NDArray[np.bool_]:
    zeros = zeros_of_rows(round(sparsity * scores.size), len(scores))
    ranks = np.argsort(np.argsort(np.abs(scores), axis=1, kind="stable"), axis=1, kind="stable")
    kept: NDArray[np.bool_] = ranks >= zeros[:, None]
    return kept


def _largest_blocks(matrix: NDArray[np.float32], sparsity: float) -> NDArray[np.bool_]:
    rows, depth = matrix.shape
    padded = np.pad(np.abs(matrix), ((0, ceil_to(rows, 4) - rows), (0, 0)))
    kept = _largest(padded.reshape(-1, 4, depth).sum(axis=1), sparsity)
    return np.repeat(kept, 4, axis=0)[:rows]


def _largest_of_kernels(
    matrix: NDArray[np.float32], pattern: str, shape: Sequence[int], sparsity: float
) -> NDArray[np.bool_]:
    """Return a mask that keeps or drops rows of kernels, or whole kernels, by their sums."""
    height, width = (*shape[2:], 1, 1)[:2]
    taps = np.abs(matrix).reshape(shape[0], height, width, -1)
    axes = 2 if pattern == "vector" else (1, 2)
    kept = _largest(taps.sum(axis=axes, keepdims=True), sparsity)
    return np.broadcast_to(kept, taps.shape).reshape(matrix.shape)
