"""First-order Taylor expansion of the loss (Molchanov et al., CVPR 2019, arXiv:1906.10771)."""

from __future__ import annotations

from torch import Tensor

from amc.criteria.base import Criterion, LayerView


def _taylor(layer: LayerView) -> Tensor:
    """Return ``(g w)^2``, the squared first-order change of the loss when w becomes 0.

    Equations 7 and 8: of a group, the sum over its weights; ``g^2`` is the mean over batches.
    """
    assert layer.gradient_squares is not None
    return layer.gradient_squares.double() * layer.weight.double().square()


taylor = Criterion(_taylor, frozenset({"gradient_squares"}), side="makes")
