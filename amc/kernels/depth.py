"""The order of a weight's depth, (ky, kx, input channel) with channels fastest, and its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc.errors import InputError

Floats = NDArray[np.float32]


def ceil_to(number: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is not below ``number``."""
    return -(-number // multiple) * multiple


def depth_of(shape: Sequence[int], channel_multiple: int = 1) -> int:
    """Return the depth of a weight of ``shape``: taps times channels, these rounded up."""
    return prod(shape[2:]) * ceil_to(shape[1], channel_multiple)


def as_matrix(weight: Tensor, channel_multiple: int = 1) -> Floats:
    """Return the weight as ``[M, depth]``; added channels are 0.

    Raises ``InputError`` for anything but a float32 weight ``[M, K]`` or ``[M, C, kh, kw]`` on CPU.
    """
    rule = "a weight to be packed must be float32 [M, K] or [M, C, kh, kw] on the CPU, not empty"
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise InputError(
            f"{rule}, but got {weight.dtype} on {weight.device}; use weight.float().cpu()"
        )
    if weight.dim() not in (2, 4) or weight.numel() == 0:
        found = list(weight.shape)
        raise InputError(f"{rule}, but got shape {found}; pack linear and 2-d convolution weights")
    dense: Any = weight.detach().numpy()
    rows, channels = dense.shape[:2]
    taps = dense.reshape(rows, channels, -1).transpose(0, 2, 1)
    padded = ceil_to(channels, channel_multiple)
    if padded != channels:
        taps = np.pad(taps, ((0, 0), (0, 0), (0, padded - channels)))
    return np.ascontiguousarray(taps).reshape(rows, -1)


def as_weight(matrix: Floats, shape: Sequence[int]) -> Tensor:
    """Return a matrix ``[M, depth]`` as the weight of ``shape``; added channels are dropped."""
    rows, channels, *kernel = shape
    taps = matrix.reshape(rows, prod(kernel), -1)[:, :, :channels]
    dense = np.ascontiguousarray(taps.transpose(0, 2, 1)).reshape(tuple(shape))
    return torch.from_numpy(dense)


def block_lengths(depth: int, block: int) -> NDArray[np.int64]:
    """Return the length of every block of depth; the last one may be shorter."""
    starts = np.arange(0, depth, block)
    return np.minimum(block, depth - starts)


def blocked(matrix: NDArray[Any], block: int) -> NDArray[Any]:
    """Return ``[rows, depth]`` as ``[blocks, rows, block]``, zeros behind the last column."""
    rows, depth = matrix.shape
    blocks = -(-depth // block)
    padded = np.zeros((rows, blocks * block), dtype=matrix.dtype)
    padded[:, :depth] = matrix
    return np.ascontiguousarray(padded.reshape(rows, blocks, block).transpose(1, 0, 2))
