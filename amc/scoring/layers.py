"""A convolution, the BatchNorm behind it, a residual sum and a ReLU, run as one.

Three ways, the first that fits: a compiled layer (``amc/scoring/csrc``), where BatchNorm is a scale
and shift of the sums; oneDNN with weights packed once; plain torch. Which one runs depends on the
layer and the processor alone, never on timings, so that one machine always computes the same. All
agree with plain torch to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from amc.layers import is_depthwise
from amc.scoring import library
from amc.scoring.library import Layer

Fused = Callable[..., Tensor]
Function = Literal["amc_depthwise", "amc_direct", "amc_tiles"]
# The fewest channels, of inputs and of outputs, that tiles and oneDNN are faster with than a direct
# convolution (experiments/LOG.md).
LEAST_OF_TILES = 40
LEAST_OF_ONEDNN = 64
SIDE, DEPTH, PARTS = 16, 32, 3  # of a tile: rows, depth; bfloat16 a number


def fused(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool, fold: bool) -> Fused:
    """Return ``f(x, other=None) = relu(norm(conv(x)) + other)``, of the weights of this moment.

    ``fold`` allows BatchNorm to change the weights where its scale is no part of the kernel.
    """
    plain = Plain(conv, norm, relu)
    if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
        return plain
    function = _compiled(conv)
    if function is not None:
        return Compiled(function, plain)
    return OneDNN(plain, fold) if OneDNN.available() else plain


class Plain:
    """The layers as torch runs them."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool) -> None:
        self.conv, self.norm, self.relu = conv, norm, relu

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return ``[N, M, H', W']``."""
        y: Tensor = self.conv(x)
        y = y if self.norm is None else self.norm(y)
        return self.finish(y, other)

    def finish(self, y: Tensor, other: Tensor | None) -> Tensor:
        """Return ``relu(y + other)``; both only where they are wanted."""
        y = y if other is None else y + other
        return torch.relu(y) if self.relu else y


class Compiled:
    """A layer of the compiled library; inputs that it does not take go the plain way."""

    def __init__(self, function: Function, plain: Plain) -> None:
        conv = plain.conv
        self._function, self._plain = function, plain
        self._scale, self._shift = scale_and_shift(conv, plain.norm)
        self._weight = PACKED[function](conv.weight.detach())
        self._channels = conv.in_channels
        self._layer = layer = Layer()
        layer.scale, layer.shift = self._scale.data_ptr(), self._shift.data_ptr()
        layer.weight, layer.relu = self._weight.data_ptr(), int(plain.relu)
        layer.channels, layer.rows = conv.in_channels, conv.out_channels
        layer.kernel_h, layer.kernel_w = conv.kernel_size
        layer.stride_h, layer.stride_w = conv.stride
        assert not isinstance(conv.padding, str)
        layer.pad_h, layer.pad_w = conv.padding

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return ``[N, M, H', W']``, channels last."""
        layer = self._layer
        if x.dim() != 4 or x.shape[1] != self._channels or x.dtype != torch.float32:
            return self._plain(x, other)
        batch, _, height, width = x.shape
        high = (height + 2 * layer.pad_h - layer.kernel_h) // layer.stride_h + 1
        wide = (width + 2 * layer.pad_w - layer.kernel_w) // layer.stride_w + 1
        shape = (batch, layer.rows, high, wide)
        if min(shape) < 1 or (
            other is not None and (other.shape != shape or other.dtype != torch.float32)
        ):
            return self._plain(x, other)
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty(shape, memory_format=torch.channels_last)
        if other is not None:
            other = other.contiguous(memory_format=torch.channels_last)
        layer.x, layer.y = x.data_ptr(), y.data_ptr()
        layer.other = None if other is None else other.data_ptr()
        layer.batch, layer.height, layer.width = batch, height, width
        layer.out_height, layer.out_width = high, wide
        library.run(self._function, layer)
        return y


class OneDNN:
    """oneDNN's convolution, whose weights are packed at the first call and not at every one."""

    def __init__(self, plain: Plain, fold: bool) -> None:
        conv, norm = plain.conv, plain.norm
        weight, bias = conv.weight.detach(), conv.bias
        if norm is not None and fold:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            weight, bias = fuse_conv_bn_weights(weight, bias, *statistics)
            norm = None
        self._plain, self._weight, self._bias, self._norm = plain, weight.detach(), bias, norm
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._packed: Tensor | None = None

    @staticmethod
    def available() -> bool:
        """Return whether this torch has both operators; they are not of its public interface."""
        return torch.backends.mkldnn.is_available() and all(
            hasattr(torch.ops.mkldnn, name)
            for name in ("_reorder_convolution_weight", "_convolution_pointwise")
        )

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return ``[N, M, H', W']``."""
        if x.dim() != 4 or x.shape[1] != self._plain.conv.in_channels or x.dtype != torch.float32:
            return self._plain(x, other)
        operators: Any = torch.ops.mkldnn
        if self._packed is None:
            self._packed = operators._reorder_convolution_weight(
                self._weight, *self._geometry, list(x.shape)
            )
        alone = self._norm is None and other is None
        activation = "relu" if alone and self._plain.relu else "none"
        y: Tensor = operators._convolution_pointwise(
            x, self._packed, self._bias, *self._geometry, activation, [], ""
        )
        if alone:
            return y
        return self._plain.finish(y if self._norm is None else self._norm(y), other)


def scale_and_shift(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Return float32 ``[M]`` each: ``scale * conv_without_bias(x) + shift = norm(conv(x))``."""
    zeros = torch.zeros(conv.out_channels, dtype=torch.float64)
    bias = zeros if conv.bias is None else conv.bias.detach().double()
    if norm is None:
        return torch.ones(conv.out_channels), bias.float()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    offset = zeros if norm.bias is None else norm.bias.detach().double()
    return scale.float(), (offset + (bias - norm.running_mean.double()) * scale).float()


def pack_depthwise(weight: Tensor) -> Tensor:
    """Return ``weight`` ``[M, 1, 3, 3]`` as ``scoring.h`` says of ``amc_depthwise``."""
    return weight[:, 0].permute(1, 2, 0).contiguous()


def pack_direct(weight: Tensor) -> Tensor:
    """Return ``weight`` ``[M, C, kh, kw]`` as ``scoring.h`` says of ``amc_direct``."""
    matrix = _matrix(weight)
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % SIDE))
    return torch.unflatten(padded, 0, (-1, SIDE)).mT.contiguous()


def pack_tiles(weight: Tensor) -> Tensor:
    """Return ``weight`` ``[M, C, kh, kw]`` as ``scoring.h`` says of ``amc_tiles``."""
    matrix = _matrix(weight)
    rows, depth = matrix.shape
    left = F.pad(matrix, (0, -depth % DEPTH, 0, -rows % SIDE))
    parts = []
    for _ in range(PARTS):
        parts.append(left.bfloat16())
        left = left - parts[-1].float()
    pairs = torch.stack(parts).view(torch.int32)  # two bfloat16 are moved as one number
    blocks = torch.unflatten(torch.unflatten(pairs, 2, (-1, DEPTH // 2)), 1, (-1, SIDE))
    return blocks.permute(1, 3, 0, 4, 2).contiguous()


PACKED: dict[Function, Callable[[Tensor], Tensor]] = {
    "amc_depthwise": pack_depthwise,
    "amc_direct": pack_direct,
    "amc_tiles": pack_tiles,
}


def _matrix(weight: Tensor) -> Tensor:
    """Return ``weight`` ``[M, C, kh, kw]`` as ``[M, kh * kw * C]``."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _compiled(conv: nn.Conv2d) -> Function | None:
    """Return the compiled function for a layer, ``None`` where there is none."""
    level = library.level()
    if level == library.NOTHING or set(conv.dilation) != {1}:
        return None
    if is_depthwise(conv):
        fits = conv.kernel_size == (3, 3) and conv.stride in {(1, 1), (2, 2)}
        return "amc_depthwise" if fits else None
    if conv.groups != 1:
        return None
    narrowest = min(conv.in_channels, conv.out_channels)
    if level == library.TILES and narrowest >= LEAST_OF_TILES:
        return "amc_tiles"
    return "amc_direct" if level == library.TILES or narrowest < LEAST_OF_ONEDNN else None
