"""Sparse layers on CUDA: the shape rules everywhere, the products where there is a device."""

from __future__ import annotations

import pytest
import torch

from amc.errors import InputError
from amc.kernels import cuda
from amc.kernels.patterns import keep_largest
from tests.kernels.oracle import Layer, dense_result, drawn

DEVICE = pytest.mark.skipif(not torch.cuda.is_available(), reason="never executed here: no CUDA")
# Rounding of one product's inputs, relative to |W||x|.
BOUNDS = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5}


@pytest.mark.parametrize(
    ("kernel", "shape", "dtype"),
    [
        ("nm", (16, 16), torch.float16),
        ("nm", (48, 4, 2, 2), torch.bfloat16),
        ("nm", (64, 32), torch.int8),
        ("csr", (3, 5), torch.float32),
        ("csc", (3, 5, 3, 3), torch.float16),
    ],
)
def test_shapes_that_run(kernel: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    cuda.check_rules(kernel, shape, dtype)


@pytest.mark.parametrize(
    ("kernel", "shape", "dtype", "message"),
    [
        ("nm", (16, 16), torch.float32, "takes torch.float16, .* but got torch.float32"),
        ("nm", (16, 24), torch.float16, r"multiples of 16, but got \[16, 24\]; use 'csr'"),
        ("nm", (48, 32), torch.int8, r"multiples of 32, but got \[48, 32\]"),
        ("nm", (16, 6, 4, 4), torch.float16, "multiple of 4 input channels, but got 6"),
        ("nm", (32, 32, 1, 1), torch.int8, "runs linear layers"),
        ("csr", (16, 16), torch.int8, "'csr' on CUDA takes torch.float32"),
        ("block", (16, 16), torch.float16, "there are kernels nm, csr, csc, but got 'block'"),
        ("csr", (16,), torch.float32, r"must be \[M, K\]"),
    ],
)
def test_shapes_that_do_not_run(
    kernel: str, shape: tuple[int, ...], dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cuda.check_rules(kernel, shape, dtype)


def test_a_weight_without_the_pattern() -> None:
    with pytest.raises(InputError, match="allows 2 non-zeros"):
        cuda.pack("nm", drawn(16, 16))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device() -> None:
    with pytest.raises(InputError, match="need a CUDA device, and there is none"):
        cuda.pack("csr", drawn(16, 16))


@DEVICE
@pytest.mark.parametrize("shape", [(64, 128), (32, 16, 3, 3)])
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("nm", torch.float16),
        ("nm", torch.bfloat16),
        ("csr", torch.float16),
        ("csr", torch.float32),
        ("csc", torch.float32),
    ],
)
def test_products(kernel: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    dense = keep_largest(
        drawn(*shape), "2:4" if kernel == "nm" else "csr", None if kernel == "nm" else 0.8
    )
    x = drawn(2, 16, 7, 7) if len(shape) == 4 else drawn(5, 128)
    layer = Layer(padding=(1, 1)) if len(shape) == 4 else Layer()
    bias = drawn(shape[0])
    packed = cuda.pack(kernel, dense, dtype)
    y = cuda.run(packed, x.to("cuda", dtype), bias.to("cuda", dtype), padding=layer.padding).cpu()
    expected = dense_result(dense, x, bias, layer)
    scale = dense_result(dense.abs(), x.abs(), bias.abs(), layer)
    assert y.dtype == dtype
    assert bool(((y.double() - expected).abs() <= BOUNDS[dtype] * (scale + 1)).all())


@DEVICE
def test_int8_products_do_not_saturate() -> None:
    dense = keep_largest((100 * drawn(64, 128)).clamp(-127, 127).round(), "2:4")
    x = (100 * drawn(5, 128)).clamp(-127, 127).round()
    y = cuda.run(cuda.pack("nm", dense, torch.int8), x.to("cuda", torch.int8))
    assert torch.equal(y.cpu().double(), x.double() @ dense.double().t())
