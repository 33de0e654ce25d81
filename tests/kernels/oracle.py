"""What a sparse layer must compute, in float64, and the backends that must compute it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.nn import functional as F

from amc.errors import InputError
from amc.kernels import KERNELS, core
from amc.kernels.depth import as_matrix, depth_of
from amc.kernels.family import Sparse
from amc.kernels.packed import Packed
from amc.kernels.patterns import KEEP, KERNEL_OF, keep_largest
from amc.registry import lookup

# Of |W||x| + |bias|; float16 values round by 2**-11 each, and below 2**-14 by 2**-25 at most.
BOUND = 1e-5
HALF_BOUND, HALF_FLOOR = 2**-11 + BOUND, 2.0**-25

PATTERNS = list(KERNEL_OF)
# AMC_EXAMPLES=1000 searches longer than a test run can.
MANY = int(os.environ.get("AMC_EXAMPLES", "15"))
EXAMPLES = settings(deadline=None, derandomize=True, database=None, max_examples=MANY)


def kernel_of(pattern: str) -> type[Sparse]:
    kernel: type[Sparse] = lookup(KERNELS, KERNEL_OF[pattern], "kernel")
    return kernel


def why_not(isa: str) -> str:
    """Return why an instruction set is never executed here, empty where it is."""
    if core.library() is None:
        return core.why_no_library()
    before = core.backend().removeprefix("c-")
    try:
        core.select_isa(isa)
    except InputError as error:
        return str(error)
    core.select_isa(before)
    return ""


ISAS = ("baseline", "avx2", "avx512", "neon")
COMPILED = [isa for isa in ISAS if not why_not(isa)]
BACKENDS = ["torch", *COMPILED]


@contextmanager
def running(backend: str) -> Iterator[None]:
    """Run sparse kernels on torch, or on an instruction set of the compiled library."""
    with pytest.MonkeyPatch.context() as patch:
        if backend == "torch":
            patch.setattr(core, "library", lambda: None)
            yield
            return
        before = core.backend().removeprefix("c-")
        core.select_isa(backend)
        try:
            assert core.backend() == f"c-{backend}"
            yield
        finally:
            core.select_isa(before)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse_weight(pattern: str, shape: tuple[int, ...], sparsity: float, seed: int = 0) -> Tensor:
    """Return a weight with the pattern, of about this sparsity where the pattern leaves it free."""
    weight = drawn(*shape, seed=seed)
    if pattern in KEEP:
        extra = keep_largest(weight, "csr", sparsity)
        return keep_largest(extra, pattern)
    return keep_largest(weight, pattern, sparsity)


@dataclass(frozen=True)
class Layer:
    """Options of a call, as torch's functions take them."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    relu: bool = False

    def options(self, shape: tuple[int, ...]) -> dict[str, Any]:
        own = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return {"relu": self.relu, **(own if len(shape) == 4 else {})}


def dense_result(weight: Tensor, x: Tensor, bias: Tensor | None, layer: Layer) -> Tensor:
    """Return the layer's output in float64."""
    wide = None if bias is None else bias.double()
    if weight.dim() == 2:
        y = F.linear(x.double(), weight.double(), wide)
    else:
        options = (layer.stride, layer.padding, layer.dilation)
        y = F.conv2d(x.double(), weight.double(), wide, *options)
    return y.relu() if layer.relu else y


def assert_close(  # what |W||x| would be is the scale of the error
    y: Tensor,
    weight: Tensor,
    x: Tensor,
    bias: Tensor | None,
    layer: Layer,
    bound: float = BOUND,
    floor: float = 0.0,
) -> None:
    expected = dense_result(weight, x, bias, layer)
    size = None if bias is None else bias.abs()
    plain = Layer(layer.stride, layer.padding, layer.dilation)
    scale = dense_result(weight.abs(), x.abs(), size, plain)
    reach = dense_result(torch.ones_like(weight), x.abs(), None, plain)
    assert y.dtype == torch.float32
    assert y.shape == expected.shape
    error = (y.double() - expected).abs()
    assert bool((error <= bound * scale + floor * reach + 1e-30).all()), float(error.max())


def stored_products(
    packed: Packed, x: Tensor, bias: Tensor | None = None, skip_zeros: bool = False
) -> Tensor:
    """Return ``[M, columns]`` in float64: products of stored weights alone, NaN and inf included.

    ``x`` is the layer's matrix ``[depth, columns]``; channels that only pad are left out.
    """
    kernel = lookup(KERNELS, packed.kernel, "kernel")
    rows, depths, _ = kernel.entries(packed)
    stored = np.zeros((packed.shape[0], depth_of(packed.shape, kernel.channel_multiple)))
    stored[rows, depths] = 1
    channels = packed.shape[1]
    padded = stored.shape[1] * channels // depth_of(packed.shape)
    mask = torch.from_numpy(stored.reshape(packed.shape[0], -1, padded)[:, :, :channels] > 0)
    weight = torch.from_numpy(as_matrix(kernel.unpack(packed))).double()
    terms = weight[:, :, None] * x.double()[None]
    kept = mask.reshape(packed.shape[0], -1)[:, :, None]
    if skip_zeros:
        kept = kept & (x != 0)[None]
    y = torch.where(kept, terms, 0.0).sum(dim=1)
    return y if bias is None else y + bias.double()[:, None]


def assert_same_special(y: Tensor, expected: Tensor) -> None:
    """Assert that NaN and infinities are where they should be, and numbers are close."""
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isposinf(), expected.isposinf())
    assert torch.equal(y.isneginf(), expected.isneginf())
    finite = expected.isfinite()
    assert torch.allclose(y[finite].double(), expected[finite], rtol=1e-4, atol=1e-4)
