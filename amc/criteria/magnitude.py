"""Magnitude of the weights: the criteria of AMC (L1) and of NetAdapt (L2)."""

from __future__ import annotations

from torch import Tensor

from amc.criteria.base import Criterion, LayerView


def _absolute(layer: LayerView) -> Tensor:
    """Return ``|w|``.

    A channel has the sum over the weights that use it, as AMC does (arXiv:1802.03494, section 3.2,
    and its code: the sum of |W| over output channels and kernel positions); with residual coupling
    it has several users, which are added up. Single weights by magnitude are Han et al.'s
    (arXiv:1506.02626).
    """
    return layer.weight.double().abs()


def _square(layer: LayerView) -> Tensor:
    """Return ``w^2``.

    A channel has the L2 norm of the filters that make it, as NetAdapt does (arXiv:1804.03230,
    section 3.2); with residual coupling it has several, whose norm is taken together.
    """
    return layer.weight.double().square()


magnitude_l1 = Criterion(_absolute, side="uses")
magnitude_l2 = Criterion(_square, side="makes", root=True)
