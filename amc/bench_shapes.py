"""The shapes of ``amc bench kernels``: a table of products, and all layers of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amc.bench_rivals import Convolution
from amc.task import load_task

# Weight [M, K] times activations [K, N]: the layers of ResNet-50 and of a small transformer.
PRODUCTS: tuple[tuple[int, int, int], ...] = (
    (64, 64, 3136),
    (128, 128, 784),
    (256, 256, 196),
    (512, 512, 49),
    (256, 1152, 196),
    (768, 768, 128),
    (3072, 768, 128),
    (1024, 1024, 16),
)
VECTORS: tuple[tuple[int, int], ...] = (
    (512, 512),
    (768, 768),
    (1024, 1024),
    (3072, 768),
    (4096, 1024),
    (4096, 4096),
)
CONVOLUTIONS: tuple[Convolution, ...] = (
    Convolution(64, 64, (56, 56), 3, 1, 1),
    Convolution(128, 64, (28, 28), 3, 1, 1),
    Convolution(256, 128, (14, 14), 3, 1, 1),
    Convolution(256, 256, (14, 14), 3, 1, 1),
    Convolution(512, 512, (7, 7), 3, 1, 1),
)
ZOO = ("resnet8", "resnet20", "mobilenet")


def zoo_layers(
    networks: Sequence[str], batch_size: int
) -> dict[Convolution | tuple[int, int, int], list[str]]:
    """Return which networks have each convolution and linear layer, groups apart.

    A linear layer is its ``(M, K, N)``.
    """
    found: dict[Convolution | tuple[int, int, int], list[str]] = {}
    for name in networks:
        task = load_task(name)

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any, name: str = name) -> None:
            its: Convolution | tuple[int, int, int]
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                size = (inputs[0].shape[2], inputs[0].shape[3])
                kernel, stride, padding = (
                    int(v[0]) if isinstance(v, tuple) else int(v)
                    for v in (layer.kernel_size, layer.stride, layer.padding)
                )
                shape = (layer.out_channels, layer.in_channels, size, kernel, stride, padding)
                its = Convolution(*shape, batch_size)
            elif isinstance(layer, nn.Linear):
                its = (layer.out_features, layer.in_features, batch_size)
            else:
                return
            if name not in found.setdefault(its, []):
                found[its].append(name)

        hooks = [layer.register_forward_hook(note) for layer in task.network.modules()]
        with torch.inference_mode():
            task.network.eval()(*(x[:1] for x in task.inputs))
        for hook in hooks:
            hook.remove()
    return found
