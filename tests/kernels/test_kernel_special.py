"""What is written and what is read: poisoned memory, NaN and infinity, ReLU, threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from amc.kernels import core
from amc.kernels.calls import Plan, Ready
from amc.kernels.geometry import conv_geometry, linear_geometry
from amc.kernels.packed import Packed
from tests.kernels.oracle import (
    BACKENDS,
    COMPILED,
    PATTERNS,
    Layer,
    assert_close,
    assert_same_special,
    drawn,
    kernel_of,
    running,
    sparse_weight,
    stored_products,
)

GUARD = 4097  # floats on each side; odd, so that nothing is aligned


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SHAPES = [
    ((13, 10), (7, 10)),
    ((70, 130), (67, 130)),
    ((5, 3), (1, 3)),
    ((35, 70), (3, 70)),
    ((17, 5, 3, 2), (2, 5, 7, 9)),
    ((9, 33, 1, 1), (3, 33, 5, 5)),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("shape", "x_shape"), SHAPES)
def test_every_output_is_written(
    backend: str,
    pattern: str,
    shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = torch.empty_strided

    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        return plain(*args, **kwargs).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty_strided", poisoned)
    kernel = kernel_of(pattern)
    for sparsity in (0.5, 1.0):
        weight, x = sparse_weight(pattern, shape, sparsity), drawn(*x_shape)
        with running(backend):
            y = kernel.run(kernel.pack(weight, pattern), x)
        assert_close(y, weight, x, None, Layer())


def guarded(tensor: Tensor, guard: float) -> tuple[Tensor, Tensor]:
    """Return ``tensor`` in the middle of memory full of ``guard``, and that memory."""
    memory = torch.full((2 * GUARD + tensor.numel(),), guard)
    inside = torch.as_strided(memory, tensor.shape, tensor.stride(), GUARD)
    return inside.copy_(tensor), memory


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("few_columns", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("shape", "x_shape"), SHAPES)
def test_nothing_outside_is_read_or_written(
    backend: str,
    pattern: str,
    few_columns: bool,
    last: bool,
    shape: tuple[int, ...],
    x_shape: tuple[int, ...],
) -> None:
    conv = len(shape) == 4
    if (few_columns and (conv or x_shape[0] > 3)) or (last and not conv):
        return  # there is no such call
    layout = torch.channels_last if last else torch.contiguous_format
    weight, kernel = sparse_weight(pattern, shape, 0.5), kernel_of(pattern)
    x, _ = guarded(drawn(*x_shape).contiguous(memory_format=layout), torch.nan)
    bias, _ = guarded(drawn(shape[0]), torch.nan)
    packed = kernel.pack(weight, pattern, few_columns=few_columns)
    # One float off any alignment that an allocator gives.
    values = torch.full((packed.tensors["values"].numel() + 1,), torch.nan)[1:]
    tensors = {**packed.tensors, "values": values.copy_(packed.tensors["values"])}
    packed = Packed(packed.kernel, pattern, packed.shape, tensors)
    with running(backend):
        ready = Ready(packed.arrays, packed.kernel, pattern, list(shape))
        steps = ((2, 1), (1, 2), (1, 1))
        to = conv_geometry(x, shape, *steps) if conv else linear_geometry(x, shape)
        plan = Plan(ready, to, x, False, 2)
        y, memory = guarded(torch.empty_strided(plan.y_sizes, plan.y_strides).fill_(7), -7.0)
        call = core.Call.from_buffer_copy(plan.call)
        call.x, call.y, call.bias = x.data_ptr(), y.data_ptr(), bias.data_ptr()
        plan.run(ready.c_weight, call)
    assert bool((memory[:GUARD] == -7).all())
    assert bool((memory[-GUARD:] == -7).all())
    assert_close(y, weight, x, bias, Layer((2, 1), (1, 2)) if conv else Layer())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("few_columns", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
def test_special_numbers_reach_what_meets_them(
    backend: str, pattern: str, few_columns: bool, special: float
) -> None:
    kernel, bias = kernel_of(pattern), drawn(11)
    weight = sparse_weight(pattern, (11, 70), 0.8)
    row, column = (int(at) for at in weight.nonzero()[17])
    x = drawn(2 if few_columns else 37, 70)
    x[-1, 3] = 0
    for spoil_weight in (False, True):
        spoiled_w, spoiled_x = weight.clone(), x.clone()
        if spoil_weight:
            spoiled_w[row, column] = special
            spoiled_x[0, column] = 0
        else:
            spoiled_x[1, column] = special
        packed = kernel.pack(spoiled_w, pattern, few_columns=few_columns)
        skips = pattern == "csc" and few_columns
        expected = stored_products(packed, spoiled_x.t(), bias, skip_zeros=skips).t()
        with running(backend):
            assert_same_special(kernel.run(packed, spoiled_x, bias), expected)
            rectified = kernel.run(packed, spoiled_x, bias, relu=True)
        assert_same_special(rectified, torch.where(expected < 0, 0.0, expected))
        spoiled_outputs = ~expected.isfinite()
        assert spoiled_outputs.any()
        assert not spoiled_outputs.all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_special_numbers_in_convolutions(backend: str, pattern: str) -> None:
    kernel, weight = kernel_of(pattern), sparse_weight(pattern, (9, 6, 3, 3), 0.8)
    for last in (False, True):
        x = drawn(2, 6, 5, 6)
        x[0, 2, 1, 1], x[1, 5, 4, 5] = torch.nan, torch.inf
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        packed = kernel.pack(weight, pattern)
        # F.unfold orders (channel, tap); depth runs over (tap, channel).
        columns = F.unfold(x, 3, padding=1).reshape(2, 6, 9, -1).permute(2, 1, 0, 3)
        expected = stored_products(packed, columns.reshape(54, -1)).reshape(9, 2, 5, 6)
        with running(backend):
            y = kernel.run(packed, x, padding=(1, 1))
        assert_same_special(y, expected.transpose(0, 1))
        assert bool(y.isnan().any())
        assert not bool(y.isnan().all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_threads_may_share_a_layer(backend: str, pattern: str) -> None:
    kernel = kernel_of(pattern)
    packed = kernel.pack(sparse_weight(pattern, (40, 90), 0.6), pattern)
    inputs = [drawn(20, 90, seed=seed) for seed in range(8)]
    with running(backend):
        expected = [kernel.run(packed, x) for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda x: kernel.run(packed, x), inputs * 25))
    assert all(torch.equal(y, expected[i % 8]) for i, y in enumerate(got))
