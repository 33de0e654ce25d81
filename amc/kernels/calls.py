"""Running checked weights: everything that a call needs is found out once for each input layout.

Nothing here trusts a tensor that Python code may have changed. Starts and indices, which the
compiled kernels follow to addresses, are copied when they are checked; of the values, the kernels
use no more than the address and the length, and these are compared at every call.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from amc.errors import InputError
from amc.kernels import KERNELS, core
from amc.kernels.family import Sparse
from amc.kernels.geometry import (
    Geometry,
    check_bias,
    image_strides,
    is_channels_last,
)
from amc.kernels.packed import FEW_COLUMNS_HALF, FIELDS, SPMM, Packed
from amc.registry import lookup

MOST_PLANS = 64  # input layouts remembered for a weight

_ready: dict[int, Ready] = {}  # by the identity of `values`; gone when that tensor is


class Ready:
    """A weight that was checked, and the plans of the calls that it has had."""

    def __init__(self, weight: Sequence[Tensor], kernel: str, pattern: str, shape: list[int]):
        self.kernel: type[Sparse] = lookup(KERNELS, kernel, "kernel")
        if not issubclass(self.kernel, Sparse):
            raise InputError(f"kernel {kernel!r} takes no packed weight; run the layer itself")
        # Of the values the same memory, and no reference to the caller's own tensor.
        values = weight[0].detach()
        own = [values, *(tensor.detach().clone() for tensor in weight[1:])]
        tensors = dict(zip(FIELDS, own, strict=True))
        self.packed = Packed(kernel, pattern, tuple(shape), tensors)
        self.layout = self.kernel.check(self.packed)
        self.names = (kernel, pattern, list(shape))
        self.others = tuple(weight[1:])
        self.address, self.length = values.data_ptr(), values.numel()
        self.versioned = not any(tensor.is_inference() for tensor in weight)
        self.versions = [tensor._version for tensor in weight] if self.versioned else []
        self.plans: dict[Any, Plan] = {}
        self.gone: Any = None

    def is_still(self, weight: Sequence[Tensor], kernel: str, pattern: str, shape: Any) -> bool:
        """Return whether ``weight`` is what was checked; inference tensors tell of no change."""
        values, indices, starts, layout = weight
        others = self.others
        return (
            indices is others[0]
            and starts is others[1]
            and layout is others[2]
            and self.names == (kernel, pattern, shape)
            and values.data_ptr() == self.address
            and values.numel() == self.length
            and values.is_contiguous()
            and (
                not self.versioned
                or self.versions
                == [values._version, indices._version, starts._version, layout._version]
            )
        )

    def suiting(self, columns: int) -> Ready:
        """Return the weight in the form that suits a linear layer of ``columns`` columns."""
        limit = self.kernel.most_few_columns(self.packed.shape[0])
        if self.layout[0] == SPMM and len(self.packed.shape) == 2 and columns <= limit:
            return self.for_few_columns
        return self

    @cached_property
    def for_few_columns(self) -> Ready:
        """A copy of the weight in the few-columns form; making it takes about as long as packing.

        Values changed behind torch's back (``.data``, numpy) are not seen by it.
        """
        pattern, shape = self.packed.pattern, list(self.packed.shape)
        dense = self.kernel.unpack(self.packed)
        packed = self.kernel.pack(dense, pattern, few_columns=True)
        return Ready(packed.arrays, self.kernel.name, pattern, shape)

    @cached_property
    def product(self) -> Any:
        """The product of the slower backend."""
        from amc.kernels.torch_backend import product_of

        return product_of(self.kernel, self.packed)

    @cached_property
    def c_weight(self) -> core.Weight:
        """The weight as the compiled kernels take it."""
        _, depth, block, keep = self.layout
        addresses = [self.packed.tensors[field].data_ptr() for field in FIELDS[:3]]
        return core.Weight(depth, block, keep, *addresses)

    @property
    def function(self) -> str:
        """The name of the compiled kernel that takes this weight's form."""
        form = self.layout[0]
        if form == SPMM:
            return "csr" if self.kernel.name == "csc" else self.kernel.name
        return f"{self.kernel.name}_gemv" + ("_half" if form == FEW_COLUMNS_HALF else "")


def ready(weight: Sequence[Tensor], kernel: str, pattern: str, shape: list[int]) -> Ready:
    """Return the checked weight; it is checked when it is met first and after it was changed."""
    if len(weight) != len(FIELDS):
        raise InputError(f"`weight` must hold {', '.join(FIELDS)}, but got {len(weight)} tensors")
    values = weight[0]
    known = _ready.get(id(values))
    if known is not None and known.is_still(weight, kernel, pattern, shape):
        return known
    made = Ready(weight, kernel, pattern, shape)
    key = id(values)
    made.gone = weakref.ref(values, lambda _: _ready.pop(key, None))
    _ready[key] = made
    return made


class Plan:
    """One layer's call for one layout of its input."""

    def __init__(self, weight: Ready, to: Geometry, x: Tensor, relu: bool, threads: int):
        self.weight, self.to, self.relu = weight, to, relu
        linear = len(weight.packed.shape) == 2
        # A linear layer's columns lie apart, its channels side by side, as in channels-last images.
        last = linear or is_channels_last(x)
        self.format = torch.contiguous_format if linear or not last else torch.channels_last
        x_strides = image_strides((to.batch, to.channels, to.height, to.width), last)
        y_sizes = (to.batch, to.rows, to.out_height, to.out_width)
        y_strides = image_strides(y_sizes, last)
        self.copies = not x.is_contiguous(memory_format=self.format)
        if linear and x.dim() == 2 and x.stride(1) == 1 and x.stride(0) >= to.channels:
            self.copies, x_strides = False, (x.stride(0), *x_strides[1:])
        self.y_sizes: tuple[int, ...] = (*x.shape[:-1], to.rows) if linear else y_sizes
        self.y_strides = _plain_strides(self.y_sizes) if linear else y_strides
        self.bias_shape = (to.rows,)
        self.run: Any = None
        self.idle: list[core.Call] = []
        if core.library() is not None and to.columns and x.numel():
            self.run = core.call(weight.function)
            self.call = _call(to, x_strides, y_strides, relu, threads)
            self.idle.append(core.Call.from_buffer_copy(self.call))

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output; ``x`` has the layout that the plan was made for."""
        if self.copies:
            x = x.contiguous(memory_format=self.format)
        if x.is_neg():  # a view whose numbers are those in memory, negated
            x = x.resolve_neg()
        if bias is not None:
            bias = bias.resolve_neg()
            if bias.shape != self.bias_shape or bias.dtype is not torch.float32 or not bias.is_cpu:
                check_bias(bias, self.to.rows)
            if not bias.is_contiguous():
                bias = bias.contiguous()
        y = torch.empty_strided(self.y_sizes, self.y_strides, dtype=torch.float32)
        if self.run is None:
            return self._slowly(x, bias, y)
        try:
            call = self.idle.pop()
        except IndexError:  # another thread runs this very layer
            call = core.Call.from_buffer_copy(self.call)
        call.x = x.data_ptr()
        call.y = y.data_ptr()
        call.bias = None if bias is None else bias.data_ptr()
        self.run(self.weight.c_weight, call)
        self.idle.append(call)
        return y

    def _slowly(self, x: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
        to = self.to
        if not to.columns:
            return y
        images = y.view(to.batch, to.rows, to.out_height, to.out_width)
        if not x.numel():  # padding alone
            images.copy_((torch.zeros(to.rows) if bias is None else bias)[:, None, None])
            return y.relu_() if self.relu else y
        from amc.kernels.torch_backend import multiply

        x = x.reshape(to.batch, to.channels, to.height, to.width)
        multiple = self.weight.kernel.channel_multiple
        images.copy_(multiply(self.weight.product, x, to, multiple, bias, self.relu))
        return y


def _plain_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


def _call(
    to: Geometry, x_strides: Sequence[int], y_strides: Sequence[int], relu: bool, threads: int
) -> core.Call:
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
