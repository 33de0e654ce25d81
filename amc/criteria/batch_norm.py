"""BatchNorm's scale (network slimming: Liu et al., ICCV 2017, arXiv:1708.06519)."""

from __future__ import annotations

from torch import Tensor

from amc.criteria.base import Criterion, LayerView


def _scale(layer: LayerView) -> Tensor:
    """Return ``|gamma|``: how much of a normalised channel is passed on.

    With residual coupling a channel has several, which are added up.
    """
    return layer.weight.double().abs()


batch_norm_scale = Criterion(
    _scale, side="passes", of_weights="BatchNorm has one scale a channel, and none a weight"
)
