"""The torch operators ``amc::sparse_linear`` and ``amc::sparse_conv2d``.

``weight`` is ``[values, indices, starts, layout]`` of a ``Packed``; it is checked when it is met
first. They have no gradient: sparse layers are for inference. They run on as many threads as torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from amc.errors import InputError
from amc.kernels import core
from amc.kernels.calls import Plan, ready, remember, repeated
from amc.kernels.geometry import (
    conv_geometry,
    image_strides,
    is_channels_last,
    linear_geometry,
)

NO_GRADIENT = (
    "sparse layers have no gradient, but the input requires one; run the network under "
    "torch.inference_mode() or torch.no_grad(), and train the dense one"
)

_library = torch.library.Library("amc", "DEF")
_library.define(
    "sparse_linear(Tensor x, Tensor[] weight, str kernel, str pattern, int[] shape, Tensor? bias, "
    "bool relu) -> Tensor"
)
_library.define(
    "sparse_conv2d(Tensor x, Tensor[] weight, str kernel, str pattern, int[] shape, Tensor? bias, "
    "int[] stride, int[] padding, int[] dilation, bool relu) -> Tensor"
)


def _linear(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    return _linear_plan(x, weight, kernel, pattern, shape, relu)(x, bias)


def _linear_plan(
    x: Tensor, weight: Sequence[Tensor], kernel: str, pattern: str, shape: list[int], relu: bool
) -> Plan:
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(NO_GRADIENT)
    checked = ready(weight, kernel, pattern, shape)
    slow, threads = core.library() is None, torch.get_num_threads()
    key = (x.shape, x.stride(), x.dtype, relu, threads, slow)
    plan = checked.plans.get(key)
    if plan is None:
        to = linear_geometry(x, shape)
        suiting = checked.suiting(to.columns)
        plan = checked.keep(key, Plan(suiting, to, x, relu, threads))
    return plan


def _conv2d(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    relu: bool,
) -> Tensor:
    if x.dim() == 3:  # one image, as torch takes it
        return _conv2d(
            x[None], weight, kernel, pattern, shape, bias, stride, padding, dilation, relu
        )[0]
    return _conv2d_plan(x, weight, kernel, pattern, shape, stride, padding, dilation, relu)(x, bias)


def _conv2d_plan(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    relu: bool,
) -> Plan:
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(NO_GRADIENT)
    checked = ready(weight, kernel, pattern, shape)
    slow, threads = core.library() is None, torch.get_num_threads()
    options = (*stride, None, *padding, None, *dilation)
    key = (x.shape, x.stride(), x.dtype, options, relu, threads, slow)
    plan = checked.plans.get(key)
    if plan is None:
        to = conv_geometry(x, shape, stride, padding, dilation)
        plan = checked.keep(key, Plan(checked, to, x, relu, threads))
    return plan


def _linear_shape(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    to = linear_geometry(x, shape)
    return x.new_empty((*x.shape[:-1], to.rows))


def _conv2d_shape(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    relu: bool,
) -> Tensor:
    images = x[None] if x.dim() == 3 else x
    to = conv_geometry(images, shape, stride, padding, dilation)
    sizes = (to.batch, to.rows, to.out_height, to.out_width)
    y = images.new_empty_strided(sizes, image_strides(sizes, is_channels_last(images)))
    return y[0] if x.dim() == 3 else y


def _on_cuda(x: Tensor, *_: Any) -> NoReturn:
    raise InputError(
        f"these kernels take tensors on the CPU, but got one on {x.device}; amc.kernels.cuda runs "
        "sparse layers there"
    )


def _on_other_layouts(x: Tensor, *_: Any) -> NoReturn:
    layout = "mkldnn" if x.is_mkldnn else str(x.layout)
    raise InputError(
        f"these kernels take activations as strided tensors, but got layout {layout}; pass "
        "x.to_dense()"
    )


for _name, _run, _shape in (
    ("sparse_linear", _linear, _linear_shape),
    ("sparse_conv2d", _conv2d, _conv2d_shape),
):
    _library.impl(_name, _run, "CPU")
    _library.impl(_name, _shape, "Meta")
    _library.impl(_name, _on_cuda, "CUDA")
    for _layout in ("SparseCPU", "SparseCsrCPU", "MkldnnCPU"):
        _library.impl(_name, _on_other_layouts, _layout)


def sparse_linear(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    """Return ``amc::sparse_linear``; straight away where nobody watches operators."""
    options = (kernel, pattern, shape, relu)
    if not is_dynamo_compiling():
        again = repeated(x, weight, bias, options)
        if again is not None:
            return again
    if _watched(x):
        _refuse_tracked(x)
        y: Tensor = torch.ops.amc.sparse_linear.default(
            x, weight, kernel, pattern, shape, bias, relu
        )
        return y
    plan = _linear_plan(x, weight, kernel, pattern, shape, relu)
    y = plan(x, bias)
    remember(plan, x, weight, bias, options)
    return y


def sparse_conv2d(
    x: Tensor,
    weight: Sequence[Tensor],
    kernel: str,
    pattern: str,
    shape: list[int],
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    relu: bool,
) -> Tensor:
    """Return ``amc::sparse_conv2d``; straight away where nobody watches operators."""
    options = (kernel, pattern, shape, stride, padding, dilation, relu)
    if not is_dynamo_compiling():
        again = repeated(x, weight, bias, options)
        if again is not None:
            return again
    if _watched(x):
        _refuse_tracked(x)
        y: Tensor = torch.ops.amc.sparse_conv2d.default(
            x, weight, kernel, pattern, shape, bias, stride, padding, dilation, relu
        )
        return y
    if x.dim() == 3:  # one image, as torch takes it
        return sparse_conv2d(
            x[None], weight, kernel, pattern, shape, bias, stride, padding, dilation, relu
        )[0]
    plan = _conv2d_plan(x, weight, kernel, pattern, shape, stride, padding, dilation, relu)
    y = plan(x, bias)
    remember(plan, x, weight, bias, options)
    return y


def _watched(x: Tensor) -> bool:
    """Return whether a mode, a tracer, a transform or a kind of tensor has to see operators.

    Without one, torch's dispatcher would take as long as a small layer itself, for nothing.
    """
    return (
        is_compiling()  # first: a compiler cannot follow the others
        or type(x) is not Tensor
        or not x.is_cpu
        or x.layout is not torch.strided
        or x._is_zerotensor()
        or is_in_torch_dispatch_mode()
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        or torch._C._are_functorch_transforms_active()
    )


def _refuse_tracked(x: Tensor) -> None:
    """Raise ``InputError`` for an input that ``torch.func`` follows to differentiate."""
    if not is_compiling() and type(x) is Tensor and torch._C._functorch.is_gradtrackingtensor(x):
        raise InputError(NO_GRADIENT)
