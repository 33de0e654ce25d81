"""``dense``: torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from amc.kernels.arena import Arena
from amc.kernels.prepared import built
from amc.latency.ops import OpTemplate


class Dense:
    """Runs an operation exactly as torch does inside a deployed network."""

    @staticmethod
    def backend() -> str:
        """Return the name of what runs: torch's version and the library behind it."""
        version = torch.__version__.split("+")[0]
        return f"torch-{version}/{'oneDNN' if torch._C._has_mkldnn else 'native'}"

    @staticmethod
    def channel_block() -> int:
        """Return the channels that torch works on at once here: the float32 lanes of one vector.

        oneDNN's convolutions go through channels in blocks of a vector (16 with AVX-512, 8 with
        AVX2, 4 else) and a block that is partly filled takes the time of a full one.
        """
        return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)

    @staticmethod
    def prepare(
        template: OpTemplate, dims: Sequence[int], arena: Arena | None = None
    ) -> tuple[Callable[[], Any], list[Tensor]]:
        """Return a call of the operation at widths ``dims``, and the activations that it reads.

        The call takes nothing and may be repeated; operands are random and of the recorded layout,
        activations in ``arena``, if one is given.
        """
        overload = _overload(template.op)
        if overload._schema.is_mutable:
            arena = None  # what works in place would change the numbers that others read
        activations: list[Tensor] = []
        args = [built(argument, dims, activations, arena) for argument in template.args]
        kwargs = {name: built(value, dims, activations, arena) for name, value in template.kwargs}
        return (lambda: overload(*args, **kwargs)), activations


def _overload(name: str) -> Any:
    namespace, operation, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), operation), overload)
