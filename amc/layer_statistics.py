"""Calibration statistics of layers: gathered once, when first asked for, for all criteria."""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from amc.criteria.base import LayerView, Need
from amc.data import Data
from amc.errors import InputError
from amc.reconstruction.moments import MAX_COLUMNS, gather
from amc.reconstruction.rows import LAYERS, Layer, column_count, groups_of, weight_columns
from amc.training import loss_of

BATCH = 125  # examples of a gradient


class Statistics:
    """What ``calibration`` examples say of the layers of a dense ``network``.

    Of its linear layers and its convolutions of one group, with at most ``MAX_COLUMNS`` columns.
    """

    def __init__(self, network: nn.Module, calibration: Data) -> None:
        self._network, self._data = network, calibration
        self._layers = [
            name
            for name, layer in network.named_modules()
            if isinstance(layer, LAYERS)
            and groups_of(layer) == 1
            and column_count(layer) <= MAX_COLUMNS
        ]

    def knows(self, layer: str) -> bool:
        """Return whether there are statistics of a layer."""
        return layer in self._layers

    def view(
        self,
        layer: str,
        weight: Tensor,
        needs: Collection[Need],
        outputs: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> LayerView:
        """Return a layer whose weight is now ``weight``, with the statistics that are needed.

        ``outputs`` and ``inputs`` are the dense layer's channels that ``weight`` still has,
        ascending (``None``: all); statistics are those of the dense network.
        """
        moments = gradients = None
        if needs and layer not in self._layers:
            raise InputError(
                f"the criterion needs statistics of layer {layer!r}, and there are none of grouped "
                f"convolutions and of layers with more than {MAX_COLUMNS} columns; exclude it, or "
                "choose a criterion by weights, such as 'magnitude_l1'"
            )
        if "moments" in needs:
            moments = self._moments[layer]
            if inputs is not None:
                size = len(moments) // weight[0, 0].numel()
                offsets = torch.arange(0, len(moments), size)
                columns = (offsets[:, None] + inputs).flatten()
                moments = moments[columns[:, None], columns]
        if "gradient_squares" in needs:
            gradients = self._gradient_squares[layer]
            gradients = gradients if outputs is None else gradients[outputs]
            gradients = gradients if inputs is None else gradients[:, inputs]
        return LayerView(weight, moments, gradients)

    @cached_property
    def _moments(self) -> dict[str, Tensor]:
        modules = {name: cast(Layer, self._network.get_submodule(name)) for name in self._layers}
        found = {}
        for name, its in gather(self._network, modules, self._data).items():
            columns = modules[name].weight[0].numel()  # without that of a bias
            found[name] = its.gram[0, :columns, :columns] / max(1, its.rows)
        return found

    @cached_property
    def _gradient_squares(self) -> dict[str, Tensor]:
        labels = self._data.labels
        if labels is None or labels.dtype.is_floating_point:
            raise InputError(
                "the criterion needs gradients of the loss, and the task's training examples have "
                "no labels; choose one without, such as 'wanda' or 'second_order'"
            )
        network = copy.deepcopy(self._network).eval().requires_grad_(False)
        weights = [network.get_submodule(name).weight for name in self._layers]
        tensors = [cast(nn.Parameter, weight).requires_grad_(True) for weight in weights]
        sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in tensors]
        batches = 0
        for batch in self._data.batches(BATCH):
            assert batch.labels is not None
            with torch.enable_grad():
                loss = loss_of(network(*batch.inputs), batch.labels)
            for total, gradient in zip(
                sums, torch.autograd.grad(loss, tensors, allow_unused=True), strict=True
            ):
                if gradient is not None:  # a layer that the forward pass leaves out has none
                    total.add_(gradient.double().square())
            batches += 1
        named = zip(self._layers, sums, strict=True)
        return {name: (total / batches).contiguous() for name, total in named}


def relative_error(layer: LayerView, pruned: Tensor) -> float:
    """Return the squared error of a layer's outputs with the weight ``pruned``, over their power.

    On the inputs that ``layer.moments`` are of.
    """
    assert layer.moments is not None
    dense = weight_columns(layer.weight)
    lost = dense - weight_columns(pruned)
    left, power = (float(((rows @ layer.moments) * rows).sum()) for rows in (lost, dense))
    return left / power if power else 0.0
