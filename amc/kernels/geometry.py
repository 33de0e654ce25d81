"""The sizes of one layer's call, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from amc.errors import InputError
from amc.kernels import core


@dataclass(frozen=True)
class Geometry:
    """One product: ``batch`` images of ``channels`` x ``height`` x ``width`` to ``rows`` channels.

    A linear layer's images have one pixel.
    """

    batch: int
    channels: int
    height: int
    width: int
    rows: int
    out_height: int = 1
    out_width: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def columns(self) -> int:
        """Output pixels of the whole batch."""
        return self.batch * self.out_height * self.out_width


def linear_geometry(
    x: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Geometry:
    """Return the sizes of a linear layer ``[M, K]`` on ``x`` ``[..., K]``."""
    if len(shape) != 2:
        raise InputError(
            f"sparse_linear takes a weight of shape [M, K], but got {list(shape)}; "
            "use sparse_conv2d for convolutions"
        )
    rows, channels = shape
    _check_type(x, dtype)
    if x.dim() < 1 or x.shape[-1] != channels:
        raise InputError(
            f"a sparse linear layer [{rows}, {channels}] takes x of shape [..., {channels}], "
            f"but got {list(x.shape)}"
        )
    return Geometry(prod(x.shape[:-1]), channels, 1, 1, rows)


def conv_geometry(
    x: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> Geometry:
    """Return the sizes of a convolution ``[M, C, kh, kw]`` on ``x`` ``[N, C, H, W]``."""
    if len(shape) != 4:
        raise InputError(
            f"sparse_conv2d takes a weight of shape [M, C, kh, kw], but got {list(shape)}; "
            "use sparse_linear for linear layers"
        )
    _check_type(x, dtype)
    rows, channels = shape[0], shape[1]
    if x.dim() != 4 or x.shape[1] != channels:
        raise InputError(
            f"a sparse convolution {list(shape)} takes x of shape [N, {channels}, H, W], "
            f"but got {list(x.shape)}"
        )
    steps = _pair("stride", stride, 1)
    edges = _pair("padding", padding, 0)
    gaps = _pair("dilation", dilation, 1)
    batch, _, height, width = x.shape
    kernel = (shape[2], shape[3])
    out_height, out_width = (
        _out(size, kernel[axis], steps[axis], edges[axis], gaps[axis])
        for axis, size in enumerate((height, width))
    )
    return Geometry(
        batch, channels, height, width, rows, out_height, out_width, kernel, steps, edges, gaps
    )


def _out(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    reach = dilation * (kernel - 1) + 1
    room = size + 2 * padding
    if room < reach and size > 0:
        raise InputError(
            f"the kernel must fit into the padded image, but it reaches over {reach} pixels "
            f"(kernel {kernel}, dilation {dilation}) of {room}; pad more or use a larger image"
        )
    return max(0, (room - reach) // stride + 1)


# Of strides, paddings and dilations: so that no product of sizes leaves 64 bits in the kernels.
MOST_OPTION = 65536


def _pair(name: str, value: Sequence[int], least: int) -> tuple[int, int]:
    if len(value) != 2 or min(value) < least or max(value) > MOST_OPTION:
        raise InputError(
            f"`{name}` must be two integers >= {least} and at most {MOST_OPTION}, "
            f"but got {list(value)}"
        )
    return value[0], value[1]


def _check_type(x: Tensor, dtype: torch.dtype) -> None:
    if x.dtype != dtype:
        raise InputError(
            f"this sparse layer takes {dtype} activations, but got {x.dtype}; use x.to({dtype})"
        )


def check_bias(bias: Tensor, rows: int) -> None:
    """Raise ``InputError`` unless ``bias`` is float32 ``[rows]`` on the CPU."""
    if bias.dtype != torch.float32 or tuple(bias.shape) != (rows,) or bias.device.type != "cpu":
        raise InputError(
            f"`bias` must be float32 [{rows}] on the CPU, but got {bias.dtype} "
            f"{list(bias.shape)} on {bias.device}"
        )


def is_channels_last(x: Tensor) -> bool:
    """Return whether ``x`` ``[N, C, H, W]`` counts as channels-last, and so does its output.

    What is contiguous both ways counts, as in ``amc.latency.trace``: a width of 1 changes nothing.
    Anything else counts if its channels lie side by side.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        return True
    return not x.is_contiguous() and x.stride(1) == 1 and x.shape[1] > 1


def image_strides(
    sizes: tuple[int, int, int, int], channels_last: bool
) -> tuple[int, int, int, int]:
    """Return the strides of a contiguous ``[N, C, H, W]``, or of a channels-last one."""
    _, channels, height, width = sizes
    if channels_last:
        return (channels * height * width, 1, width * channels, channels)
    return (channels * height * width, height * width, width, 1)


def plain_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


def call_of(
    to: Geometry, x_strides: Sequence[int], y_strides: Sequence[int], relu: bool, threads: int
) -> core.Call:
    """Return the call as the compiled kernels take it, with no addresses yet."""
    call = core.Call(
        batch=to.batch,
        channels=to.channels,
        height=to.height,
        width=to.width,
        rows=to.rows,
        out_height=to.out_height,
        out_width=to.out_width,
        relu=int(relu),
        threads=threads,
    )
    call.x_stride[:], call.y_stride[:] = tuple(x_strides), tuple(y_strides)
    (call.kernel_h, call.kernel_w), (call.stride_h, call.stride_w) = to.kernel, to.stride
    (call.pad_h, call.pad_w), (call.dilation_h, call.dilation_w) = to.padding, to.dilation
    return call
