"""Every kernel on every backend against a float64 dense reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.oracle import (
    BACKENDS,
    EXAMPLES,
    HALF_BOUND,
    HALF_FLOOR,
    PATTERNS,
    Layer,
    assert_close,
    drawn,
    kernel_of,
    running,
    sparse_weight,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arranged(x: Tensor, layout: str) -> Tensor:
    """Return equal numbers in other strides."""
    if layout == "apart":  # rows further apart than they are long
        return torch.cat([x, torch.full_like(x, torch.nan)], dim=-1)[..., : x.shape[-1]]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    return x


def weights(pattern: str, shape: tuple[int, ...], kind: str, seed: int) -> Tensor:
    sparsity = {"empty": 1.0, "full": 0.0, "half": 0.5, "sparse": 0.9, "rows": 0.8}[kind]
    weight = sparse_weight(pattern, shape, sparsity, seed)
    if kind == "rows":  # an empty one, and one as full as the pattern allows
        weight[shape[0] // 2] = 0
        weight[-1] = sparse_weight(pattern, (1, *shape[1:]), 0.0, seed)[0]
    return weight


KINDS = st.sampled_from(["empty", "full", "half", "sparse", "rows"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
@EXAMPLES
@given(data=st.data())
def test_linear(backend: str, pattern: str, data: st.DataObject) -> None:
    rows, depth = data.draw(st.integers(1, 70), "rows"), data.draw(st.integers(1, 150), "depth")
    columns = data.draw(st.integers(1, 70), "columns")
    kind, seed = data.draw(KINDS, "kind"), data.draw(st.integers(0, 9), "seed")
    layout = data.draw(st.sampled_from(["plain", "apart", "transposed", "strided"]), "layout")
    layer = Layer(relu=data.draw(st.booleans(), "relu"))
    bias = drawn(rows, seed=seed) if data.draw(st.booleans(), "bias") else None
    x = arranged(drawn(columns, depth, seed=seed + 1), layout)
    weight = weights(pattern, (rows, depth), kind, seed)
    kernel = kernel_of(pattern)
    with running(backend):
        packed = kernel.pack(weight, pattern)
        y = kernel.run(packed, x, bias, relu=layer.relu)
        assert y.is_contiguous()
        assert_close(y, weight, x, bias, layer)
        several = kernel.run(packed, x.reshape(1, columns, 1, depth), bias, relu=layer.relu)
        assert torch.equal(several.reshape(y.shape), y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
@EXAMPLES
@given(data=st.data())
def test_convolution(backend: str, pattern: str, data: st.DataObject) -> None:
    def both(name: str, least: int, most: int) -> tuple[int, int]:
        return data.draw(st.integers(least, most), name), data.draw(st.integers(least, most), name)

    rows, channels = (
        data.draw(st.integers(1, 40), "rows"),
        data.draw(st.integers(1, 20), "channels"),
    )
    kernel_size, dilation = both("kernel", 1, 4), both("dilation", 1, 2)
    padding, stride = both("padding", 0, 3), both("stride", 1, 3)
    room = [max(0, dilation[i] * (kernel_size[i] - 1) - 2 * padding[i]) for i in range(2)]
    height, width = (size + room[i] for i, size in enumerate(both("size", 1, 11)))
    batch, seed = data.draw(st.integers(1, 3), "batch"), data.draw(st.integers(0, 9), "seed")
    kind = data.draw(KINDS, "kind")
    layouts = ["plain", "channels_last", "apart", "transposed", "strided"]
    layout = data.draw(st.sampled_from(layouts), "layout")
    layer = Layer(stride, padding, dilation, data.draw(st.booleans(), "relu"))
    bias = drawn(rows, seed=seed) if data.draw(st.booleans(), "bias") else None
    x = arranged(drawn(batch, channels, height, width, seed=seed + 1), layout)
    weight = weights(pattern, (rows, channels, *kernel_size), kind, seed)
    kernel = kernel_of(pattern)
    with running(backend):
        y = kernel.run(kernel.pack(weight, pattern), x, bias, **layer.options(weight.shape))
    assert_close(y, weight, x, bias, layer)
    if layout == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)
    elif not x.is_contiguous(memory_format=torch.channels_last):
        assert y.is_contiguous()


# Beyond one block of depth, one panel of columns, one group of rows; and the shapes of real layers.
LARGE = [
    ((70, 700), (131, 700)),
    ((257, 65), (64, 65)),
    ((33, 1030), (5, 1030)),
    ((128, 64, 1, 1), (2, 64, 14, 14)),
    ((64, 64, 3, 3), (2, 64, 9, 9)),
    ((20, 130, 3, 3), (1, 130, 7, 5)),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("shape", "x_shape"), LARGE)
def test_large(
    backend: str, pattern: str, shape: tuple[int, ...], x_shape: tuple[int, ...]
) -> None:
    kernel, bias = kernel_of(pattern), drawn(shape[0])
    layer = Layer(padding=(1, 1) if shape[-1] == 3 else (0, 0))
    for sparsity in (0.3, 0.7, 0.95):  # csr cuts depth into other blocks
        weight = sparse_weight(pattern, shape, sparsity)
        packed = kernel.pack(weight, pattern)
        for last in (False, True) if len(shape) == 4 else (False,):
            x = arranged(drawn(*x_shape), "channels_last" if last else "plain")
            with running(backend):
                y = kernel.run(packed, x, bias, **layer.options(shape))
            assert_close(y, weight, x, bias, layer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "csc"])
@EXAMPLES
@given(data=st.data())
def test_few_columns(backend: str, pattern: str, data: st.DataObject) -> None:
    rows, depth = data.draw(st.integers(1, 140), "rows"), data.draw(st.integers(1, 300), "depth")
    columns = data.draw(st.integers(1, 40), "columns")
    kind, seed = data.draw(KINDS, "kind"), data.draw(st.integers(0, 9), "seed")
    layer = Layer(relu=data.draw(st.booleans(), "relu"))
    bias = drawn(rows, seed=seed) if data.draw(st.booleans(), "bias") else None
    x = arranged(
        drawn(columns, depth, seed=seed + 1),
        data.draw(st.sampled_from(["plain", "apart", "transposed"]), "layout"),
    )
    if data.draw(st.booleans(), "zeros in x"):
        x = torch.where(x < 0, 0.0, x)
    weight = weights(pattern, (rows, depth), kind, seed)
    kernel = kernel_of(pattern)
    with running(backend):
        packed = kernel.pack(weight, pattern, few_columns=True)
        y = kernel.run(packed, x, bias, relu=layer.relu)
        assert_close(y, weight, x, bias, layer)
        if pattern != "csc":
            packed = kernel.pack(weight, pattern, few_columns=True, half=True)
            y = kernel.run(packed, x, bias, relu=layer.relu)
            assert_close(y, weight, x, bias, layer, HALF_BOUND, HALF_FLOOR)
            # The rounding aside, no less exact than float32.
            assert_close(y, kernel.unpack(packed), x, bias, layer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_two_threads_and_repeated_calls_change_no_bit(backend: str, pattern: str) -> None:
    kernel = kernel_of(pattern)
    for shape, x_shape in (*LARGE, ((70, 300), (1, 300)), ((70, 300), (3, 300))):
        packed = kernel.pack(sparse_weight(pattern, shape, 0.7), pattern)
        x, bias = drawn(*x_shape), drawn(shape[0])
        with running(backend):
            torch.set_num_threads(1)
            one = kernel.run(packed, x, bias)
            torch.set_num_threads(2)
            assert torch.equal(kernel.run(packed, x, bias), one)
            assert torch.equal(kernel.run(packed, x, bias), one)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_to_compute(backend: str, pattern: str) -> None:
    kernel, bias = kernel_of(pattern), drawn(6)
    linear = kernel.pack(sparse_weight(pattern, (6, 8), 0.5), pattern)
    conv = kernel.pack(sparse_weight(pattern, (6, 8, 3, 3), 0.5), pattern)
    with running(backend):
        assert kernel.run(linear, torch.zeros(0, 8), bias).shape == (0, 6)
        assert kernel.run(linear, torch.zeros(2, 0, 8)).shape == (2, 0, 6)
        assert kernel.run(linear, drawn(8)).shape == (6,)
        assert kernel.run(conv, torch.zeros(0, 8, 5, 5), bias).shape == (0, 6, 3, 3)
        assert kernel.run(conv, torch.zeros(2, 8, 0, 5), bias).shape == (2, 6, 0, 3)
        padded = kernel.run(conv, torch.zeros(1, 8, 0, 5), bias, padding=(2, 0), relu=True)
        assert torch.equal(padded, bias.relu()[None, :, None, None].expand(1, 6, 2, 3))
        assert kernel.run(conv, drawn(8, 5, 5), bias).shape == (6, 3, 3)
