"""``Arena``: memory that the operations of a turn share, as the layers of a network do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from amc.latency.ops import Operand, OpTemplate

ALIVE = 2  # buffers that take turns: what a layer reads, and what the layer before it read


class Arena:
    """Buffers for the activations of ``points``, one after the other.

    A network has two or three activations in use at a time, and a layer writes where an earlier one
    wrote; were every operation given inputs of its own, dozens would push one another out of the
    caches, and each would take longer than it does in a network.
    """

    def __init__(self, points: Iterable[tuple[OpTemplate, Sequence[int]]]) -> None:
        longest: list[int] = []  # of the first activation of an operation, of the second, ...
        for template, dims in points:
            for slot, operand in enumerate(_activations(template)):
                longest += [0] * (slot + 1 - len(longest))
                longest[slot] = max(longest[slot], prod(operand.shape_at(dims)))
        self._buffers = [[noise(length) for _ in range(ALIVE)] for length in longest]
        self._taken = 0

    def take(self, slot: int, shape: Sequence[int]) -> Tensor:
        """Return a contiguous float32 tensor for activation ``slot`` of the next operation."""
        if slot == 0:
            self._taken += 1
        return self._buffers[slot][self._taken % ALIVE][: prod(shape)].view(*shape)


def noise(count: int) -> Tensor:
    """Return fresh memory with ``count`` numbers in [-0.5, 0.5); drawing each would take longer."""
    pool = _pool()
    return pool.repeat(-(-count // len(pool)))[:count]


@lru_cache(maxsize=1)
def _pool() -> Tensor:
    # Its own generator: timing must not move the global one.
    return torch.rand(1 << 16, generator=torch.Generator().manual_seed(0)) - 0.5


def _activations(template: OpTemplate) -> Iterator[Operand]:
    values = (*template.args, *(value for _, value in template.kwargs))
    return (operand for operand in _operands(values) if not operand.is_weight)


def _operands(value: Any) -> Iterator[Operand]:
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, tuple):
        for element in value:
            yield from _operands(element)
