"""What every sparse kernel offers beside its own packing: ``run``, ``unpack`` and ``prepare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amc.errors import InputError
from amc.kernels import core
from amc.kernels.arena import Arena
from amc.kernels.depth import as_weight, depth_of
from amc.kernels.packed import Packed, refuse
from amc.latency.ops import OpTemplate

# Row, depth and value of every stored weight.
Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]


class Sparse:
    """A kernel of ``KERNELS`` for sparse weights.

    ``channel_multiple`` is what every tap's channels are padded to.
    """

    name: ClassVar[str]
    patterns: ClassVar[tuple[str, ...]]
    channel_multiple: ClassVar[int] = 1

    @staticmethod
    def backend() -> str:
        """Return the name of what runs: the C library's instruction set, or torch."""
        return core.backend()

    @staticmethod
    def most_few_columns(rows: int) -> int:
        """Return up to how many columns layers of ``rows`` outputs take the few-columns form."""
        return 0

    @staticmethod
    def pack(
        weight: Tensor, pattern: str | None = None, *, few_columns: bool = False, half: bool = False
    ) -> Packed:
        """Return ``weight`` packed."""
        raise NotImplementedError

    @staticmethod
    def entries(packed: Packed) -> Entries:
        """Return row, depth and value of every stored weight of ``packed``, which was checked."""
        raise NotImplementedError

    @staticmethod
    def check(packed: Packed) -> list[int]:
        """Return the layout; raise ``InputError`` for anything that is corrupt."""
        raise NotImplementedError

    @classmethod
    def unpack(cls, packed: Packed) -> Tensor:
        """Return the dense weight."""
        cls.check(packed)
        depth = depth_of(packed.shape, cls.channel_multiple)
        rows, depths, values = cls.entries(packed)
        matrix = np.zeros((packed.shape[0], depth), dtype=np.float32)
        # Added, not set: a stored zero may stand in the place of another stored weight.
        np.add.at(matrix, (rows, depths), values.astype(np.float32))
        return as_weight(matrix, packed.shape)

    @classmethod
    def run(
        cls,
        packed: Packed,
        x: Tensor,
        bias: Tensor | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        relu: bool = False,
    ) -> Tensor:
        """Return the layer's output: ``[..., M]`` of ``[..., K]``, or ``[N, M, H', W']``.

        ``x`` is float32 on the CPU, of any strides. The first call with a weight checks it.
        """
        from amc.kernels import ops

        if packed.kernel != cls.name:
            raise refuse(packed, "kernel", f"be {cls.name!r}", packed.kernel)
        weight = packed.arrays
        shape = list(packed.shape)
        if len(shape) == 2:
            if (stride, padding, dilation) != ((1, 1), (0, 0), (1, 1)):
                raise InputError("a linear layer has no stride, padding or dilation")
            y: Tensor = ops.sparse_linear(x, weight, cls.name, packed.pattern, shape, bias, relu)
            return y
        y = ops.sparse_conv2d(
            x,
            weight,
            cls.name,
            packed.pattern,
            shape,
            bias,
            list(stride),
            list(padding),
            list(dilation),
            relu,
        )
        return y

    @classmethod
    def prepare(
        cls, template: OpTemplate, dims: Sequence[int], arena: Arena | None = None
    ) -> tuple[Callable[[], Any], list[Tensor]]:
        """Return a call of the operation at widths ``dims``, and the activations that it reads."""
        from amc.kernels.prepared import prepare_sparse

        return prepare_sparse(cls, template, dims, arena)

    @classmethod
    def known_pattern(cls, pattern: str) -> str:
        """Return ``pattern``; raise ``InputError`` where the kernel has no such pattern."""
        if pattern not in cls.patterns:
            raise InputError(
                f"kernel {cls.name!r} runs patterns {', '.join(cls.patterns)}, but got {pattern!r}"
            )
        return pattern

    @classmethod
    def refuse_half(cls, half: bool) -> None:
        """Raise ``InputError`` where float16 values are asked for."""
        if half:
            raise InputError(
                f"kernel {cls.name!r} has no form with float16 values; only 'nm' with "
                "few_columns=True has one"
            )

    @classmethod
    def needs_linear(cls, weight: Tensor) -> None:
        """Raise ``InputError`` unless a few-columns form can be made of ``weight``."""
        if weight.dim() != 2:
            raise InputError(
                f"few_columns=True is for linear weights [M, K], but got {list(weight.shape)}; "
                "use few_columns=False"
            )

    @staticmethod
    def few_columns_form(packed: Packed, forms: Sequence[int]) -> None:
        """Raise ``InputError`` unless ``packed`` has one of the few-columns ``forms``."""
        if packed.form not in forms or len(packed.shape) != 2:
            rule = f"begin with form 0, or {list(forms)} for a linear layer"
            raise refuse(packed, "layout", rule, packed.layout)
