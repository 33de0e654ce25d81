"""Sparse layers in place of dense ones: what they compute, how they are saved and seen."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from amc.deploy import deployed, why_unfolded
from amc.errors import InputError
from amc.kernels import calls
from amc.kernels.modules import SparseConv2d, SparseLinear, layer_from_state, sparse_module
from amc.kernels.patterns import KERNEL_OF, keep_largest
from tests.kernels.oracle import (
    BACKENDS,
    PATTERNS,
    Layer,
    assert_close,
    drawn,
    kernel_of,
    running,
    sparse_weight,
)


def dense_layer(pattern: str, conv: bool, bias: bool = True) -> nn.Linear | nn.Conv2d:
    layer: nn.Linear | nn.Conv2d = (
        nn.Conv2d(10, 14, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=bias)
        if conv
        else nn.Linear(30, 14, bias=bias)
    )
    with torch.no_grad():
        layer.weight.copy_(sparse_weight(pattern, tuple(layer.weight.shape), 0.6))
        if layer.bias is not None:
            layer.bias.copy_(drawn(14))
    return layer


def input_of(conv: bool, seed: int = 0) -> Tensor:
    return drawn(2, 10, 6, 7, seed=seed) if conv else drawn(5, 30, seed=seed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_sparse_layer_computes_what_the_dense_one_does(
    backend: str, pattern: str, conv: bool
) -> None:
    for bias, relu in ((False, False), (True, True)):
        dense, x = dense_layer(pattern, conv, bias), input_of(conv)
        layer = sparse_module(dense, pattern, KERNEL_OF[pattern], relu)
        weight, own_bias = dense.weight.detach(), drawn(14) if bias else None
        assert torch.equal(layer.dense_weight(), weight)
        same = Layer((2, 1), (1, 2), (1, 2), relu) if conv else Layer(relu=relu)
        with running(backend):
            assert_close(layer(x), weight, x, own_bias, same)
            with torch.inference_mode():
                assert_close(layer(x + 0), weight, x, own_bias, same)
            if not conv:
                for columns in (1, 2, 3):
                    assert_close(layer(x[:columns]), weight, x[:columns], own_bias, same)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_layer_is_saved_and_loaded_bit_for_bit(
    pattern: str, conv: bool, bias: bool, tmp_path: Path
) -> None:
    kernel, x = KERNEL_OF[pattern], input_of(conv)
    layer = sparse_module(dense_layer(pattern, conv, bias), pattern, kernel, relu=True)
    network = nn.Sequential(nn.Identity(), layer)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    state = load_file(tmp_path / "w.safetensors")
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    alone = layer_from_state(state, "1.")
    assert (type(alone), repr(alone)) == (type(layer), repr(layer))
    assert torch.equal(alone(x), layer(x))
    # Into a layer of another number of non-zeros, which is then all gone.
    dense = dense_layer(pattern, conv, bias)
    with torch.no_grad():
        dense.weight.mul_(torch.rand(dense.weight.shape) < 0.5)
    other = nn.Sequential(nn.Identity(), sparse_module(dense, pattern, kernel, relu=True))
    other(x)
    assert other.load_state_dict(state) == nn.modules.module._IncompatibleKeys([], [])
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(other)(x), layer(x))
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    assert torch.equal(layer_from_state(torch.load(file), "1.")(x), layer(x))


def test_a_layer_for_few_columns_with_float16_values_is_saved_too(tmp_path: Path) -> None:
    weight = sparse_weight("2:4", (14, 30), 0.0)
    layer = SparseLinear(kernel_of("2:4").pack(weight, few_columns=True, half=True), drawn(14))
    save_file(layer.state_dict(), tmp_path / "w.safetensors")
    again, x = layer_from_state(load_file(tmp_path / "w.safetensors")), drawn(2, 30)
    assert again.values.dtype == torch.float16
    assert torch.equal(again(x), layer(x))


def test_states_with_other_keys_and_settings() -> None:
    layer = sparse_module(dense_layer("csr", conv=True), "csr", "csr")
    state = layer.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*starts"):
        layer.load_state_dict({k: v for k, v in state.items() if k != "starts"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight"):
        layer.load_state_dict({**state, "weight": torch.zeros(1)})
    fused = sparse_module(dense_layer("csr", conv=True), "csr", "csr", relu=True)
    with pytest.raises(InputError, match=r"settings. must be those .*layer_from_state"):
        fused.load_state_dict(state)


def test_what_is_shown() -> None:
    layer = sparse_module(dense_layer("2:4", conv=True), "2:4", "nm")
    assert repr(layer) == (
        "SparseConv2d(kernel=nm, pattern=2:4, shape=[14, 10, 3, 2], relu=False, stride=[2, 1], "
        "padding=[1, 2], dilation=[1, 2], bias=True)"
    )


def test_options_as_torch_takes_them() -> None:
    packed = kernel_of("csr").pack(drawn(4, 3, 3, 3))
    x = drawn(1, 3, 9, 9)
    one = SparseConv2d(packed, stride=2, padding=1, dilation=1)
    assert torch.equal(one(x), SparseConv2d(packed, stride=(2, 2), padding=[1, 1])(x))
    assert torch.equal(one(x[0]), one(x)[0])
    for options in ({"stride": 0}, {"padding": (1, 2, 3)}, {"dilation": 1.5}, {"padding": -1}):
        with pytest.raises((InputError, TypeError), match=r"must be one or two integers|float"):
            SparseConv2d(packed, **options)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), "groups=1, but got 2"),
        (nn.Conv2d(8, 8, 3, padding="same"), "`padding` of .* integers, but got 'same'"),
        (nn.Conv2d(8, 8, 3, padding="valid"), "`padding` of .* integers, but got 'valid'"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "but got 'reflect'"),
        (nn.Conv1d(8, 8, 3), "but got Conv1d; leave it dense"),
        (nn.ConvTranspose2d(8, 8, 3), "but got ConvTranspose2d"),
        (nn.Linear(8, 8).double(), "float32"),
    ],
)
def test_layers_that_cannot_be_replaced(layer: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sparse_module(layer, "csr", "csr")


def test_a_weight_without_the_pattern_is_not_replaced() -> None:
    with pytest.raises(InputError, match="allows 2 non-zeros .* prune first"):
        sparse_module(nn.Linear(8, 8), "2:4", "nm")
    with pytest.raises(InputError, match="runs patterns csr, but got '2:4'"):
        sparse_module(nn.Linear(8, 8), "2:4", "csr")
    with pytest.raises(InputError, match="did you mean 'csr'"):
        sparse_module(nn.Linear(8, 8), "csr", "csrr")
    with pytest.raises(InputError, match="'dense' has no sparse layers; known: nm, csr"):
        sparse_module(nn.Linear(8, 8), "csr", "dense")


class Seen(TorchDispatchMode):
    """Lists the operations that a dispatch mode sees."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_layer_is_one_operation(backend: str, pattern: str) -> None:
    conv = sparse_module(dense_layer(pattern, conv=True), pattern, KERNEL_OF[pattern], relu=True)
    linear = sparse_module(dense_layer(pattern, conv=False), pattern, KERNEL_OF[pattern])
    x, row = input_of(conv=True), drawn(1, 30)
    seen = Seen()
    with running(backend), torch.inference_mode(), seen:
        conv(x)
        linear(row)  # the form for few columns is made here, unseen
    assert seen.names == ["amc.sparse_conv2d.default", "amc.sparse_linear.default"]


def test_a_network_with_sparse_layers_can_be_traced_and_deployed() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(14)
    norm.running_mean, norm.running_var = drawn(14), drawn(14).abs() + 0.5
    network = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.BatchNorm2d(10),
        sparse_module(dense_layer("2:4", conv=True), "2:4", "nm", relu=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        sparse_module(nn.Linear(14, 5), "csr", "csr"),
    ).eval()
    x = drawn(2, 3, 9, 9)
    traced = fx.symbolic_trace(network)
    result = deployed(network, (x,))
    assert why_unfolded(result) is None
    with torch.inference_mode():
        assert torch.equal(traced(x), network(x))
        assert torch.allclose(result(x), network(x), atol=1e-5)


@pytest.mark.parametrize("conv", [False, True])
def test_shapes_without_numbers(conv: bool) -> None:
    layer = sparse_module(dense_layer("csr", conv), "csr", "csr")
    x = input_of(conv)
    layouts = [torch.contiguous_format, torch.channels_last] if conv else [torch.contiguous_format]
    for layout in layouts:
        x = x.contiguous(memory_format=layout)
        y, meta = layer(x), copy.deepcopy(layer).to("meta")(x.to("meta"))
        assert (meta.shape, meta.stride(), meta.dtype) == (y.shape, y.stride(), y.dtype)
        assert meta.device.type == "meta"
    with pytest.raises(InputError, match="takes x of shape"):
        copy.deepcopy(layer).to("meta")(torch.zeros(1, 3, 3, 3, device="meta"))


def test_operators_pass_torchs_own_checks() -> None:
    for conv in (False, True):
        layer = sparse_module(dense_layer("csr", conv), "csr", "csr")
        weight = [layer.values, layer.indices, layer.starts, layer.layout]
        args = (input_of(conv), weight, "csr", "csr", layer.shape, layer.bias)
        rest = (layer.stride, layer.padding, layer.dilation) if conv else ()
        known = torch.ops.amc
        operator = (known.sparse_conv2d if conv else known.sparse_linear).default
        tests = ("test_schema", "test_faketensor")
        torch.library.opcheck(operator, (*args, *rest, False), test_utils=tests)


def test_there_is_no_gradient() -> None:
    layer, x = sparse_module(dense_layer("csr", conv=False), "csr", "csr"), input_of(conv=False)
    with pytest.raises(InputError, match="no gradient"):
        layer(x.requires_grad_())
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_a_weight_is_forgotten_with_its_tensors() -> None:
    layer = sparse_module(dense_layer("csr", conv=False), "csr", "csr")
    layer(input_of(conv=False))
    gc.collect()
    before = len(calls._ready)
    del layer
    gc.collect()
    assert len(calls._ready) == before - 1


def test_a_moved_layer_is_told_apart() -> None:
    layer = SparseLinear(kernel_of("csr").pack(keep_largest(drawn(4, 6), "csr", 0.5)))
    x = drawn(5, 6)
    y = layer(x)
    layer.to(torch.float32)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.equal(layer(x), y)
