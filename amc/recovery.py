"""What happens to a compressed network before it is scored.

A recovery is ``none``, ``batch_norm``, ``least_squares`` or ``progressive``, or one of the last two
and ``+batch_norm``:

- ``least_squares`` re-solves the layers that read removed channels, on the dense network's inputs
  (``amc.reconstruction.least_squares``); milliseconds a plan, after a preparation of seconds.
- ``progressive`` does so on the compressed network's own inputs, layer after layer
  (``amc.reconstruction.progressive``); more accurate, and as slow as some forward passes.
- ``batch_norm`` re-estimates the statistics of BatchNorm, last of all.

Reconstruction is of the dense network's weights: it comes before any fine-tuning, and leaves out
networks that start from weights which an earlier fine-tuning left (NetAdapt's).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.compress import Kept
from amc.coupling import ChannelGroup
from amc.data import Data
from amc.reconstruction.consumers import Orders
from amc.reconstruction.least_squares import LeastSquares
from amc.reconstruction.progressive import Progressive

BATCH = 250


def reconstructs(recovery: str) -> bool:
    """Return whether a recovery changes weights, not only statistics."""
    return recovery.startswith(("least_squares", "progressive"))


class Recovery:
    """The recovery of one dense network's compressed versions; prepared when first needed, once.

    ``orders`` has the channels of each group, the most important first; where it lacks one, or a
    plan keeps others, ``least_squares`` solves anew for every plan. Statistics of BatchNorm
    come from the first ``batch_norm_images`` of ``calibration`` (``None``: all).
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        groups: Sequence[ChannelGroup],
        orders: Orders,
        calibration: Data,
        batch_norm_images: int | None = None,
    ) -> None:
        self._name = name
        self._dense = network, groups, orders, calibration
        self._batch_norm_data = calibration[: batch_norm_images or len(calibration)]
        self._prepared: LeastSquares | Progressive | None = None

    @property
    def reconstructs(self) -> bool:
        """Whether it changes weights, not only statistics."""
        return reconstructs(self._name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the preparation so far; empty before it."""
        return () if self._prepared is None else self._prepared.notes

    def prepare(self) -> None:
        """Do what is the same for all plans, if it has not been done."""
        network, groups, orders, calibration = self._dense
        if self._prepared is not None or not self.reconstructs:
            return
        dense = copy.deepcopy(
            network
        )  # laid out alike wherever it comes from: rounding depends on it
        dense.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if "least_squares" in self._name:
            self._prepared = LeastSquares(dense, groups, orders, calibration)
        else:
            self._prepared = Progressive(dense, groups, calibration)

    def reconstruct(self, smaller: nn.Module, kept: Kept) -> None:
        """Give ``smaller``, the dense network compressed to ``kept``, new weights, in place."""
        self.prepare()
        if self._prepared is not None:
            self._prepared.apply(smaller, kept)

    def recalibrate(self, smaller: nn.Module) -> None:
        """Re-estimate the statistics of BatchNorm where configured; leave evaluation mode on.

        They are plain averages over batches of the calibration examples (EagleEye,
        arXiv:2007.02491).
        """
        if "batch_norm" in self._name:
            _recalibrate(smaller, self._batch_norm_data)
        smaller.eval()


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
