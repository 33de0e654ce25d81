"""What happens to a compressed network before it is scored."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.data import Data

BATCH = 250


def recover(network: nn.Module, recovery: str, calibration: Data) -> None:
    """Apply the configured recovery to ``network``, in place; it ends in evaluation mode.

    ``none`` does nothing. ``batch_norm`` re-estimates every BatchNorm's mean and variance as plain
    averages over batches of the calibration examples (EagleEye, arXiv:2007.02491).
    """
    if recovery == "batch_norm":
        _recalibrate(network, calibration)
    network.eval()


@torch.no_grad()
def _recalibrate(network: nn.Module, calibration: Data) -> None:
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    network.eval()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    for batch in calibration.batches(BATCH):
        network(*batch.inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
