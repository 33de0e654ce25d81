"""Running checked weights: everything that a call needs is found out once for each input layout.

Nothing here trusts a tensor that Python code may have changed. Starts and indices, which the
compiled kernels follow to addresses, are copied when they are checked; of the values, the kernels
use no more than the address and the length, and these are compared at every call.

A small layer takes a few microseconds, as long as Python needs to ask a tensor what it is. So a
call like one of the last ones is known by one comparison of torch's own (``repeated``), the one by
which ``torch.compile`` knows its inputs again. It is private to torch: where it is missing, every
call goes the longer way.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from ctypes import byref
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, get_num_threads
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from amc.errors import InputError
from amc.kernels import KERNELS, core
from amc.kernels.family import Sparse
from amc.kernels.geometry import (
    Geometry,
    call_of,
    check_bias,
    image_strides,
    is_channels_last,
    plain_strides,
)
from amc.kernels.packed import FEW_COLUMNS_HALF, FIELDS, SPMM, Packed
from amc.registry import lookup

TensorGuards: Any
empty_strided_cpu: Any
try:
    TensorGuards = torch._C._dynamo.guards.TensorGuards
    empty_strided_cpu = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
except AttributeError:
    TensorGuards = None

MOST_PLANS = 64  # input layouts remembered for a weight
MOST_REPEATS = 4  # of these, the ones that are looked for first

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
        # They only rise, so that their sum tells of every change.
        self.versions = sum(tensor._version for tensor in weight) if self.versioned else 0
        self.plans: dict[Any, Plan] = {}
        self.repeats: tuple[Repeat, ...] = ()  # the newest first
        self.gone: Any = None

    def is_still(self, weight: Sequence[Tensor], kernel: str, pattern: str, shape: Any) -> bool:
        """Return whether ``weight`` is what was checked; inference tensors tell of no change."""
        values = weight[0]
        return (
            self.is_untouched(weight)
            and self.names == (kernel, pattern, shape)
            and values.numel() == self.length
            and values.is_contiguous()
        )

    def is_untouched(self, weight: Sequence[Tensor]) -> bool:
        """Return whether these are the tensors that were checked, at no later version."""
        values, indices, starts, layout = weight
        others = self.others
        return (
            indices is others[0]
            and starts is others[1]
            and layout is others[2]
            and values.data_ptr() == self.address
            and (
                not self.versioned
                or values._version + indices._version + starts._version + layout._version
                == self.versions
            )
        )

    def suiting(self, columns: int) -> Ready:
        """Return the weight in the form that suits a linear layer of ``columns`` columns."""
        limit = self.kernel.most_few_columns(self.packed.shape[0])
        if self.layout[0] == SPMM and len(self.packed.shape) == 2 and columns <= limit:
            return self.for_few_columns
        return self

    def keep(self, key: Any, plan: Plan) -> Plan:
        """Return ``plan``, remembered under ``key``."""
        if len(self.plans) >= MOST_PLANS:
            self.plans.clear()
        self.plans[key] = plan
        return plan

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


class Repeat:
    """A call that was made, and what another must be like so that ``plan`` serves it unseen."""

    def __init__(self, plan: Plan, x: Tensor, values: Tensor, bias: Tensor | None, options: Any):
        self.plan = plan
        self.options = tuple(list(o) if isinstance(o, list) else o for o in options)
        self.biased = bias is not None
        self.threads, self.library = get_num_threads(), core.library()
        # Of every tensor: class, dispatch keys (device, layout, views that negate, inference mode,
        # tracers, transforms), gradient, type, sizes and strides. Two must not be the same one.
        tensors = (x, values) if bias is None else (x, values, bias)
        guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        self.alike = guards.check


def repeated(
    x: Tensor, weight: Sequence[Tensor], bias: Tensor | None, options: Any
) -> Tensor | None:
    """Return the layer's output where a call like this one was remembered, else None."""
    values = weight[0]
    known = _ready.get(id(values))
    # Of the modes, `alike` leaves some out.
    if known is None or len(weight) != len(FIELDS) or is_in_torch_dispatch_mode():
        return None
    for call in known.repeats:
        if (
            call.biased is not (bias is None)
            and (call.alike(x, values) if bias is None else call.alike(x, values, bias))
            and call.options == options
            and call.threads == get_num_threads()
            and call.library is core.library()
        ):
            break
    else:
        return None
    if not known.is_untouched(weight):
        return None
    plan = call.plan
    if plan.copies:
        x = x.contiguous(memory_format=plan.format)
    return plan.into(empty_strided_cpu(plan.y_sizes, plan.y_strides, torch.float32), x, bias)


def remember(
    plan: Plan, x: Tensor, weight: Sequence[Tensor], bias: Tensor | None, options: Any
) -> None:
    """Let ``repeated`` serve calls like this one, which ``plan`` has just answered."""
    values = weight[0]
    known = _ready.get(id(values))
    if TensorGuards is None or known is None or plan.run is None:
        return
    if any(t is not None and (t.requires_grad or t.is_neg()) for t in (x, bias)):
        return
    if bias is None or bias.is_contiguous():
        known.repeats = (Repeat(plan, x, values, bias, options), *known.repeats[: MOST_REPEATS - 1])


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
        self.y_strides = plain_strides(self.y_sizes) if linear else y_strides
        self.bias_shape = (to.rows,)
        self.run: Any = None
        self.idle: list[tuple[core.Call, Any]] = []  # calls, and the kernel's arguments for them
        if core.library() is not None and to.columns and x.numel():
            self.run = core.call(weight.function)
            self.call = call_of(to, x_strides, y_strides, relu, threads)

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
        y = torch.empty_strided(self.y_sizes, self.y_strides, dtype=torch.float32, device="cpu")
        if self.run is None:
            return self._slowly(x, bias, y)
        return self.into(y, x, bias)

    def into(self, y: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``y``, written by the compiled kernel: ``x`` and ``bias`` are plain memory."""
        try:
            own = self.idle.pop()
        except IndexError:  # the first call, or another thread runs this very layer
            own = self._call_of_its_own()
        call, arguments = own
        call.x = x.data_ptr()
        call.y = y.data_ptr()
        call.bias = None if bias is None else bias.data_ptr()
        code = self.run.function(*arguments)
        self.idle.append(own)
        if code:
            raise self.run.error(code)
        return y

    def _call_of_its_own(self) -> tuple[core.Call, Any]:
        call = core.Call.from_buffer_copy(self.call)
        return call, (byref(self.weight.c_weight), byref(call))

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
