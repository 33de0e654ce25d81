"""Convolutions and linear layers: which kind each is, and its shape as a network runs."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from amc.sites import LayerShape

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ROOTS = (*CONVOLUTIONS, nn.Linear)


def is_depthwise(module: nn.Module) -> bool:
    """Return whether the layer is a convolution with one filter an input channel."""
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def is_grouped(module: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    """Return whether the layer is a convolution with groups that is not depthwise."""
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and not is_depthwise(module)


def layer_shapes(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, LayerShape]:
    """Return the shape of every convolution and linear layer, in order of first execution."""
    shapes: dict[str, LayerShape] = {}
    batch = len(example_inputs[0])

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        if name in shapes:
            return
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Linear):
            positions = output.numel() // (batch * output.shape[-1])
            shapes[name] = LayerShape(
                *("linear", weight.shape[1], weight.shape[0], 1, 0, 1, 1),
                *(weight.numel() * positions, weight.numel()),
            )
            return
        assert isinstance(module, CONVOLUTIONS)
        spatial = list(output.shape[2:])
        shapes[name] = LayerShape(
            "depthwise" if is_depthwise(module) else "conv",
            module.in_channels,
            module.out_channels,
            max(module.kernel_size),
            max(module.stride),
            spatial[0],
            spatial[-1] if len(spatial) > 1 else 1,
            weight.numel() * int(np.prod(spatial)),
            weight.numel(),
        )

    hooks = [
        module.register_forward_hook(lambda m, _, output, name=name: record(name, m, output))
        for name, module in network.named_modules()
        if isinstance(module, ROOTS)
    ]
    try:
        with torch.no_grad():
            network(*example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
