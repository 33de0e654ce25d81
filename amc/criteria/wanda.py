"""Wanda: weights and activations (Sun et al., ICLR 2024, arXiv:2306.11695)."""

from __future__ import annotations

from torch import Tensor

from amc.criteria.base import Criterion, LayerView


def _wanda(layer: LayerView) -> Tensor:
    """Return ``|w_ij| ||x_j||``, equation 1, with the norm over calibration rows.

    Single weights compete within their output row, as in the paper; it knows no channels, which
    have the sum over the weights that use them.
    """
    assert layer.moments is not None
    norms = layer.moments.diagonal().sqrt()
    weight = layer.weight.double().abs()
    if weight.dim() == 2:
        return weight * norms
    by_position: Tensor = norms.unflatten(0, (weight[0, 0].numel(), -1))
    return weight * by_position.T.reshape(weight.shape[1:])


wanda = Criterion(_wanda, frozenset({"moments"}), side="uses", within_rows=True)
