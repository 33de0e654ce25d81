"""Magnitude of the weights: the criterion of AMC (L1) and of NetAdapt (L2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def magnitude_l1(weights: Sequence[Tensor]) -> Tensor:
    """Return the sum of absolute weights of each channel, float64 ``[channels]``.

    ``weights`` are the coupled layers' weights, each ``[channels, ...]``: a channel's filters where
    it is produced and its kernels where it is consumed. AMC (arXiv:1802.03494, section 3.2) sums
    the consumer alone; with residual coupling there are several of both.
    """
    return torch.stack([w.double().abs().flatten(1).sum(1) for w in weights]).sum(0)


def magnitude_l2(weights: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each channel over all coupled layers, float64 ``[channels]``.

    NetAdapt (arXiv:1804.03230, section 3.2) takes the norm of the producing filters.
    """
    return torch.stack([w.double().square().flatten(1).sum(1) for w in weights]).sum(0).sqrt()
