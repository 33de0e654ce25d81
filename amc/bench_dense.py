"""The dense network in every form that may be the fastest: what a compressed one is held against.

Each form is a module whose call takes the place of the network's and works on one batch, laid out
beforehand as the form likes it best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from amc.applied import onnx_content
from amc.bench_rivals import onnx_session
from amc.sparsify import take_relu

FUSED, ONNX_RUNTIME = "fused", "onnx_runtime"
TORCH_FORMS = ("channels_last", "contiguous", FUSED)


def dense_forms(
    network: nn.Module, inputs: tuple[Tensor, ...], threads: int
) -> tuple[dict[str, Form], dict[str, str]]:
    """Return the forms of a ``deployed`` network by name, and why each other one is not at hand.

    ``channels_last`` is the deployed form itself, ``contiguous`` torch's default layout, ``fused``
    has each convolution's weights packed beforehand and its ReLU in it, by private operators of
    torch, and ``onnx_runtime`` is the exported network.
    """
    missing: dict[str, str] = {}
    plain = tuple(t.contiguous() for t in inputs)
    nchw = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    forms = {
        "channels_last": Form(lambda: network(*inputs)),
        "contiguous": Form(lambda: nchw(*plain)),
    }
    try:
        fused = _fused(network, inputs)
        fused(*inputs)
        forms[FUSED] = Form(lambda: fused(*inputs))
    except (AttributeError, RuntimeError) as error:
        missing[FUSED] = f"this torch cannot fuse it: {str(error).splitlines()[0]}"
    try:
        forms[ONNX_RUNTIME] = Form(_onnx_runtime(nchw, plain, threads))
    except ImportError as error:
        missing[ONNX_RUNTIME] = f"not installed: {error}"
    return forms, missing


class Form(nn.Module):
    """A call with its inputs at hand; what it is given when called does not count."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call

    def forward(self, *_: Tensor) -> Any:
        """Return the network's outputs, as the runtime hands them back."""
        return self._call()


class _FusedConv2d(nn.Module):
    """oneDNN's convolution with prepacked weights and, if wanted, ReLU behind it."""

    def __init__(self, layer: nn.Conv2d, relu: bool, shape: torch.Size) -> None:
        super().__init__()
        how = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
        pack = torch.ops.mkldnn._reorder_convolution_weight
        self._packed = pack(layer.weight.detach(), *how, list(shape))
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._how = (*how, "relu" if relu else "none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        run: Any = torch.ops.mkldnn._convolution_pointwise
        result: Tensor = run(x, self._packed, self._bias, *self._how)
        return result


def _fused(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy of ``network`` whose convolutions are fused and packed, where fx traced it."""
    result = copy.deepcopy(network)
    if not isinstance(result, fx.GraphModule):
        raise RuntimeError("torch.fx could not trace the network")
    for name, shape in _input_shapes(result, inputs).items():
        layer = result.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            result.set_submodule(name, _FusedConv2d(layer, take_relu(result, name), shape))
    result.recompile()
    return result


def _input_shapes(network: nn.Module, inputs: tuple[Tensor, ...]) -> Mapping[str, torch.Size]:
    """Return the shape of what each convolution reads, by its name."""
    shapes: dict[str, torch.Size] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, read: shapes.__setitem__(name, read[0].shape)

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers]
    with torch.inference_mode():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return shapes


def _onnx_runtime(
    network: nn.Module, inputs: tuple[Tensor, ...], threads: int
) -> Callable[[], Any]:
    """Return the call of ``network`` in ONNX Runtime; ``ImportError`` where it is not installed."""
    session = onnx_session(onnx_content(network, inputs), threads)
    feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)
