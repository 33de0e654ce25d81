"""Operations at given widths, on random operands, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from amc.errors import InputError
from amc.kernels.packed import FEW_COLUMNS_HALF, SPMM
from amc.kernels.patterns import KEEP, keep_largest
from amc.latency.ops import Operand, OpTemplate, Width

if TYPE_CHECKING:
    from amc.kernels.family import Sparse

SPARSE_OPS = ("amc.sparse_linear.default", "amc.sparse_conv2d.default")
DENSITY = "density"  # the last axis of patterns that set no sparsity: non-zeros in a thousand


def built(value: Any, dims: Sequence[int], activations: list[Tensor]) -> Any:
    """Return ``value`` with every ``Operand`` in it made into a tensor or an integer.

    Tensors that are no weights are appended to ``activations``.
    """
    if isinstance(value, Operand):
        tensor = _tensor(value.shape_at(dims), value)
        if not value.is_weight:
            activations.append(tensor)
        return tensor
    if isinstance(value, Width):
        return value.at(dims)
    if isinstance(value, tuple):
        return [built(element, dims, activations) for element in value]
    if isinstance(value, str) and value.startswith("torch."):  # a dtype, layout or memory format
        return getattr(torch, value.removeprefix("torch."))
    return value


def prepare_sparse(
    kernel: type[Sparse], template: OpTemplate, dims: Sequence[int]
) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return a call of a sparse operator at widths ``dims``, and the activations that it reads.

    The weight is random, of the template's pattern and, where its last axis is ``density``, with
    exactly that many non-zeros in a thousand. Activations have no zeros.
    """
    from amc.kernels import ops  # which loads the kernels, and these load this module

    if template.op not in SPARSE_OPS:
        raise InputError(
            f"kernel {kernel.name!r} runs {' and '.join(SPARSE_OPS)}, but got {template.op}; "
            "use kernel 'dense' for it"
        )
    x, weight, name, pattern, shape, bias, *options = template.args
    if name != kernel.name:
        raise InputError(f"kernel {kernel.name!r} cannot run an operation of kernel {name!r}")
    activations: list[Tensor] = []
    sizes = built(tuple(shape), dims, activations)
    form = weight[3].shape[0]  # a recorded layout has its form as its length
    dense = keep_largest(_random_weight(tuple(sizes)), pattern, _sparsity(template, pattern, dims))
    packed = kernel.pack(dense, pattern, few_columns=form != SPMM, half=form == FEW_COLUMNS_HALF)
    operator: Any = ops.sparse_linear if len(sizes) == 2 else ops.sparse_conv2d
    args = [
        built(x, dims, activations),
        packed.arrays,
        name,
        pattern,
        sizes,
        built(bias, dims, []),
        *built(tuple(options), dims, []),
    ]
    return (lambda: operator(*args)), activations


def _sparsity(template: OpTemplate, pattern: str, dims: Sequence[int]) -> float | None:
    if pattern in KEEP:
        return None
    if not template.axes or template.axes[-1] != DENSITY:
        raise InputError(
            f"an operation of pattern {pattern!r} must have {DENSITY!r} as its last axis, "
            f"but has {list(template.axes)}"
        )
    return 1 - dims[-1] / 1000


def _random_weight(shape: tuple[int, ...]) -> Tensor:
    drawn = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn)


@lru_cache(maxsize=1)
def _pool() -> Tensor:
    # Its own generator: timing must not move the global one.
    return torch.rand(1 << 16, generator=torch.Generator().manual_seed(0)) - 0.5


def _noise(count: int) -> Tensor:
    """Return fresh memory with ``count`` numbers in [-0.5, 0.5); drawing each would take longer."""
    pool = _pool()
    return pool.repeat(-(-count // len(pool)))[:count]


def _tensor(shape: list[int], operand: Operand) -> Tensor:
    dtype = getattr(torch, operand.dtype)
    if dtype.is_floating_point:
        tensor = _noise(prod(shape)).reshape(shape).to(dtype)
    else:
        tensor = torch.zeros(shape, dtype=dtype)
    order = operand.order
    if order == tuple(range(len(shape))):
        return tensor
    # Contiguous in the recorded order of dimensions, then shown in the logical order.
    inverse = [order.index(d) for d in range(len(shape))]
    return tensor.permute(order).contiguous().permute(inverse)
