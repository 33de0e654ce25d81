"""Calls like an earlier one are answered without another look, and only these."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from amc.errors import InputError
from amc.kernels import calls
from amc.kernels.modules import SparseConv2d
from tests.kernels.conftest import Short
from tests.kernels.oracle import (
    COMPILED,
    PATTERNS,
    Layer,
    assert_close,
    drawn,
    kernel_of,
    running,
    sparse_weight,
)
from tests.kernels.sparse_layers import assert_right, input_of, layer_of

pytestmark = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_second_call_is_short_and_right(
    short: Short, backend: str, pattern: str, conv: bool, bias: bool
) -> None:
    layer, weight = layer_of(conv, pattern, bias=bias)
    batches = (1, 5) if conv else (1, 2, 40)  # for few columns, other kernels run
    with running(backend):
        for batch in batches:
            assert not short.taken(layer, input_of(conv, batch))
        for batch in batches:
            x = input_of(conv, batch, seed=3)
            y = layer(x)
            kept = y.clone()
            assert short.taken(layer, input_of(conv, batch, seed=4))
            assert torch.equal(y, kept)  # outputs do not share memory
            assert_right(layer, weight, x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_each_mode_has_its_short_way(short: Short, mode: Callable[[], Any]) -> None:
    layer, _ = layer_of(conv=False)
    x = input_of(conv=False)
    for _ in range(2):
        assert not layer(x).is_inference()
        with mode():
            y = layer(x)
            assert y.is_inference() == torch.is_inference_mode_enabled()
    with mode():
        assert short.taken(layer, x)
    assert short.taken(layer, x)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("conv", [False, True])
def test_layouts_and_batches_change_back_and_forth(conv: bool) -> None:
    layer, weight = layer_of(conv)
    x = input_of(conv)
    last = torch.channels_last if conv else torch.contiguous_format
    layouts = [
        x,
        x.contiguous(memory_format=last),
        x.transpose(-1, -2).contiguous().transpose(-1, -2),
        x[::2],
        x[:1].expand_as(x),
        x[1:2],
        x[:0],
        torch.cat([x, x], dim=1)[:, :12],
        torch._neg_view(x),
        x[0],
        *(input_of(conv, batch) for batch in range(6, 10)),
    ]
    for _ in range(3):
        for given in layouts:
            assert_right(layer, weight, given)
            assert_right(layer, weight, given)
    (known,) = (known for known in calls._ready.values() if known.others[0] is layer.indices)
    assert len(known.repeats) <= calls.MOST_REPEATS


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("conv", [False, True])
def test_what_changes_between_calls_is_seen(conv: bool) -> None:
    layer, weight = layer_of(conv)
    x = input_of(conv)

    def assert_follows(weight: Tensor) -> None:
        assert_right(layer, weight, x)
        assert_right(layer, weight, x)

    assert_follows(weight)
    x.mul_(2)
    assert_follows(weight)
    layer.values.mul_(3)
    assert_follows(3 * weight)
    layer.values.data = layer.values.detach() / 3  # torch counts no new version
    assert_follows(weight)
    assert layer.bias is not None
    layer.bias.add_(1)
    assert_follows(weight)
    layer.bias.data = drawn(14, seed=7)
    assert_follows(weight)
    for bias in (torch._neg_view(drawn(14, seed=8)), drawn(28, seed=8)[::2]):
        layer.bias = bias
        assert_follows(weight)
    other, weight = layer_of(conv, seed=9)
    layer.load_state_dict(other.state_dict())
    assert_follows(weight)
    layer.bias = None
    same = Layer(padding=(1, 1)) if conv else Layer()
    assert_close(layer(x), weight, x, None, same)
    layer.bias = drawn(13)
    with pytest.raises(InputError, match=r"`bias` must be float32 \[14\]"):
        layer(x)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("conv", [False, True])
def test_what_became_corrupt_between_calls_is_refused(conv: bool) -> None:
    x = input_of(conv)
    for field, change, message in (
        ("indices", lambda t: t[:-16].fill_(65535), "`indices` must be below"),
        ("starts", lambda t: t.fill_(1), "`starts` must begin with 0"),
        ("layout", lambda t: t.add_(1), "must"),
        ("values", lambda t: setattr(t, "data", t.detach()[:-1]), "`values` must have"),
        ("values", lambda t: setattr(t, "data", t.detach().double()), "`values` must have type"),
    ):
        layer, _ = layer_of(conv)
        layer(x)
        layer(x)
        change(getattr(layer, field))
        with pytest.raises(InputError, match=message):
            layer(x)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("conv", [False, True])
def test_other_kinds_of_input_are_told_apart(conv: bool) -> None:
    layer, weight = layer_of(conv)
    x = input_of(conv)
    for _ in range(2):
        assert_right(layer, weight, x)
        with pytest.raises(InputError, match="float32 activations"):
            layer(x.double())
        needs = x.clone().requires_grad_()
        with torch.no_grad():
            assert_right(layer, weight, needs)
            assert_right(layer, weight, needs)
        with pytest.raises(InputError, match="no gradient"):
            layer(needs)
        assert layer(x.to("meta")).device.type == "meta"
        zeros = torch._efficientzerotensor(x.shape)
        assert_right(layer, weight, zeros)
        for other in (x.to_sparse(), x.to_mkldnn()):
            with pytest.raises(InputError, match="strided tensors"):
                layer(other)
        with torch.device("meta"):  # where torch's own functions would make the output
            assert_right(layer, weight, x)


@pytest.mark.usefixtures("ways")
def test_one_weight_with_several_options() -> None:
    weight, x = sparse_weight("csr", (14, 12, 3, 3), 0.6), input_of(conv=True)
    kernel, bias = kernel_of("csr"), drawn(14)
    packed = kernel.pack(weight)
    for _ in range(2):
        for how in (
            Layer(),
            Layer(stride=(2, 1)),
            Layer(padding=(2, 1)),
            Layer(dilation=(2, 1)),
            Layer(relu=True),
        ):
            for own in (None, bias):
                y = kernel.run(packed, x, own, **how.options(packed.shape))
                assert_close(y, weight, x, own, how)


def test_options_that_the_caller_changes_in_place(short: Short) -> None:
    layer, weight = layer_of(conv=True)
    assert isinstance(layer, SparseConv2d)
    x = input_of(conv=True)
    layer(x)
    layer.padding[0] = 0
    assert not short.taken(layer, x)
    assert_close(layer(x), weight, x, layer.bias, Layer(padding=(0, 1)))


def test_threads_and_backends_are_asked_for_at_every_call(short: Short) -> None:
    layer, weight = layer_of(conv=False)
    x, before = input_of(conv=False), torch.get_num_threads()
    layer(x)
    try:
        torch.set_num_threads(before + 1)
        assert not short.taken(layer, x)
        assert short.taken(layer, x)
    finally:
        torch.set_num_threads(before)
    assert short.taken(layer, x)
    with running("torch"):
        assert not short.taken(layer, x)
        assert_right(layer, weight, x)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("conv", [False, True])
def test_threads_share_a_layer(conv: bool) -> None:
    layer, _ = layer_of(conv)
    inputs = [input_of(conv, batch, seed) for batch in (2, 3, 4) for seed in range(4)]
    expected = [layer(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(layer, inputs * 40))
    assert all(torch.equal(y, expected[i % len(inputs)]) for i, y in enumerate(got))


def test_inputs_and_outputs_are_not_kept(short: Short) -> None:
    layer, _ = layer_of(conv=False)
    x = input_of(conv=False)
    layer(x)
    y = layer(x)
    assert short.calls == 1
    gone = [weakref.ref(x), weakref.ref(y)]
    del x, y
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
