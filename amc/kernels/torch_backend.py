"""The slower backend: the packed weights of the compiled kernels, multiplied by plain torch.

Like them it multiplies stored weights alone: an activation that meets none reaches no output.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amc.kernels.depth import ceil_to, depth_of
from amc.kernels.family import Sparse
from amc.kernels.geometry import Geometry
from amc.kernels.packed import SPMM, Packed

# X [depth, columns] -> W X [M, columns]
Product = Callable[[Tensor], Tensor]


def product_of(kernel: type[Sparse], packed: Packed) -> Product:
    """Return the product with ``packed``, which was checked."""
    rows, depths, values = kernel.entries(packed)
    floats = torch.from_numpy(values.astype(np.float32))
    if kernel.name == "csc" and packed.form != SPMM:
        return _skipping(torch.from_numpy(rows), torch.from_numpy(depths), floats, packed.shape[0])
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(np.bincount(rows, minlength=packed.shape[0]))
    size = (packed.shape[0], depth_of(packed.shape, kernel.channel_multiple))
    with warnings.catch_warnings():
        # torch calls its sparse CSR "in beta state", once a process.
        warnings.simplefilter("ignore", UserWarning)
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(np.concatenate([[0], ends])),
            torch.from_numpy(depths[order]),
            floats[torch.from_numpy(order)],
            size=size,
            check_invariants=False,
        )
    return lambda x: torch.mm(matrix, x)


def _skipping(rows: Tensor, depths: Tensor, values: Tensor, height: int) -> Product:
    """Return a product that multiplies no activation that is 0."""

    def product(x: Tensor) -> Tensor:
        y = torch.zeros(height, x.shape[1])
        for column in range(x.shape[1]):
            met = x[depths, column]
            y[:, column].index_add_(0, rows, torch.where(met == 0, met, values * met))
        return y

    return product


def multiply(
    product: Product,
    x: Tensor,
    to: Geometry,
    channel_multiple: int,
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    """Return the layer's output ``[N, M, H', W']`` of images ``x`` ``[N, C, H, W]``."""
    y = product(columns_of(x, to, channel_multiple))
    if bias is not None:
        y = y + bias[:, None]
    if relu:
        y = torch.relu(y)
    return y.reshape(to.rows, to.batch, to.out_height, to.out_width).transpose(0, 1)


def columns_of(x: Tensor, to: Geometry, channel_multiple: int) -> Tensor:
    """Return X ``[depth, columns]``: what every output pixel reads, zeros outside the image."""
    taps = to.kernel[0] * to.kernel[1]
    pixels = F.unfold(x, to.kernel, to.dilation, to.padding, to.stride)
    apart = pixels.reshape(to.batch, to.channels, taps, -1).permute(2, 1, 0, 3)
    padded = ceil_to(to.channels, channel_multiple) - to.channels
    if padded:
        apart = F.pad(apart, (0, 0, 0, 0, 0, padded))
    return apart.reshape(taps * (to.channels + padded), to.columns)
