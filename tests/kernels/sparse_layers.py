"""Small sparse layers beside their dense weights."""

from __future__ import annotations

from torch import Tensor

from amc.kernels.modules import SparseConv2d, SparseLinear
from tests.kernels.oracle import Layer, assert_close, drawn, kernel_of, sparse_weight

SHAPES = {False: (14, 12), True: (14, 12, 3, 3)}


def layer_of(
    conv: bool, pattern: str = "csr", seed: int = 0, bias: bool = True
) -> tuple[SparseLinear | SparseConv2d, Tensor]:
    """Return a sparse layer and its dense weight."""
    weight = sparse_weight(pattern, SHAPES[conv], 0.6, seed)
    packed = kernel_of(pattern).pack(weight, pattern)
    own = drawn(14, seed=1) if bias else None
    return (SparseConv2d(packed, own, padding=1) if conv else SparseLinear(packed, own)), weight


def input_of(conv: bool, batch: int = 5, seed: int = 2) -> Tensor:
    return drawn(batch, 12, 6, 7, seed=seed) if conv else drawn(batch, 12, seed=seed)


def assert_right(
    layer: SparseLinear | SparseConv2d, weight: Tensor, x: Tensor, bias: Tensor | None = None
) -> None:
    same = Layer(padding=(1, 1)) if weight.dim() == 4 else Layer()
    assert_close(layer(x), weight, x, layer.bias if bias is None else bias, same)
