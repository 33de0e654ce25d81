"""Operations at given widths, on random operands, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from amc.errors import InputError
from amc.kernels.arena import Arena, noise
from amc.kernels.packed import FEW_COLUMNS_HALF, SPMM
from amc.kernels.patterns import KEEP, keep_largest
from amc.latency.ops import Operand, OpTemplate, Width

if TYPE_CHECKING:
    from amc.kernels.family import Sparse

SPARSE_OPS = ("amc.sparse_linear.default", "amc.sparse_conv2d.default")
# Of the logarithm of rows' sizes, the standard deviation. At 90% sparsity the lengths of rows then
# deviate by 0.65 of their mean; in layers of the zoo by 0.64 (resnet20) and 0.39 (mobilenet).
UNEVEN = 0.2
DENSITY = "density"  # the last axis of patterns that set no sparsity: non-zeros in a thousand


def built(
    value: Any, dims: Sequence[int], activations: list[Tensor], arena: Arena | None = None
) -> Any:
    """Return ``value`` with every ``Operand`` in it made into a tensor or an integer.

    Tensors that are no weights are appended to ``activations``; those of float32 lie in ``arena``,
    if one is given.
    """
    if isinstance(value, Operand):
        own = None if value.is_weight or value.dtype != "float32" else arena
        tensor = _tensor(value.shape_at(dims), value, own, len(activations))
        if not value.is_weight:
            activations.append(tensor)
        return tensor
    if isinstance(value, Width):
        return value.at(dims)
    if isinstance(value, tuple):
        return [built(element, dims, activations, arena) for element in value]
    if isinstance(value, str) and value.startswith("torch."):  # a dtype, layout or memory format
        return getattr(torch, value.removeprefix("torch."))
    return value


def prepare_sparse(
    kernel: type[Sparse], template: OpTemplate, dims: Sequence[int], arena: Arena | None = None
) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return a call of a sparse operator at widths ``dims``, and the activations that it reads.

    The weight is random, of the template's pattern and, where its last axis is ``density``, with
    exactly that many non-zeros in a thousand. Activations have no zeros and lie in ``arena``.
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
        built(x, dims, activations, arena),
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
    """Return random numbers whose rows are of uneven size, as those of trained layers are."""
    rng = np.random.default_rng(0)
    sizes = np.exp(UNEVEN * rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32) * sizes.astype(np.float32))


def _tensor(shape: list[int], operand: Operand, arena: Arena | None, slot: int) -> Tensor:
    order = operand.order
    # Contiguous in the recorded order of dimensions, then shown in the logical order.
    stored = [shape[d] for d in order]
    dtype = getattr(torch, operand.dtype)
    if arena is not None:
        tensor = arena.take(slot, stored)
    elif dtype.is_floating_point:
        tensor = noise(prod(shape)).view(*stored).to(dtype)
    else:
        tensor = torch.zeros(stored, dtype=dtype)
    return tensor.permute([order.index(d) for d in range(len(shape))])
