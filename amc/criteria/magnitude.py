"""Magnitude of the weights: the criteria of AMC (L1) and of NetAdapt (L2).

A criterion gets the weights that make each channel (its filters) and those that use it (its
kernels), as lists of ``[channels, n]``, one a coupled layer, and returns a score a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def magnitude_l1(made_by: Sequence[Tensor], used_by: Sequence[Tensor]) -> Tensor:
    """Return the sum of absolute weights that use each channel, float64 ``[channels]``.

    As AMC does (arXiv:1802.03494, section 3.2, and its code: the sum of |W| over output channels
    and kernel positions); with residual coupling a channel has several users, which are added up.
    Where no layer uses the channels, those that make them count.
    """
    return torch.stack([w.abs().sum(1) for w in used_by or made_by]).sum(0)


def magnitude_l2(made_by: Sequence[Tensor], used_by: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of the filters that make each channel, float64 ``[channels]``.

    As NetAdapt does (arXiv:1804.03230, section 3.2); with residual coupling a channel has several
    filters, whose norm is taken together.
    """
    return torch.stack([w.square().sum(1) for w in made_by or used_by]).sum(0).sqrt()
