"""``dense``: torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from amc.latency.ops import Operand, OpTemplate, Width


class Dense:
    """Runs an operation exactly as torch does inside a deployed network."""

    @staticmethod
    def backend() -> str:
        """Return the name of what runs: torch's version and the library behind it."""
        version = torch.__version__.split("+")[0]
        return f"torch-{version}/{'oneDNN' if torch._C._has_mkldnn else 'native'}"

    @staticmethod
    def prepare(
        template: OpTemplate, dims: Sequence[int]
    ) -> tuple[Callable[[], Any], list[Tensor]]:
        """Return a call of the operation at widths ``dims``, and the activations that it reads.

        The call takes nothing and may be repeated; operands are random and of the recorded layout.
        """
        overload = _overload(template.op)
        activations: list[Tensor] = []
        args = [_built(argument, dims, activations) for argument in template.args]
        kwargs = {name: _built(value, dims, activations) for name, value in template.kwargs}
        return (lambda: overload(*args, **kwargs)), activations


def _overload(name: str) -> Any:
    namespace, operation, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), operation), overload)


def _built(value: Any, dims: Sequence[int], activations: list[Tensor]) -> Any:
    """Return ``value`` with every ``Operand`` in it made into a tensor or an integer."""
    if isinstance(value, Operand):
        tensor = _tensor(value.shape_at(dims), value)
        if not value.is_weight:
            activations.append(tensor)
        return tensor
    if isinstance(value, Width):
        return value.at(dims)
    if isinstance(value, tuple):
        return [_built(element, dims, activations) for element in value]
    if isinstance(value, str) and value.startswith("torch."):  # a dtype, layout or memory format
        return getattr(torch, value.removeprefix("torch."))
    return value


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
