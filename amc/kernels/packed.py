"""``Packed``: a sparse weight in the arrays that the kernels read, and the rules for those arrays.

The layouts themselves are described in ``csrc/amc_kernels.h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc.errors import InputError

FIELDS = ("values", "indices", "starts", "layout")

# layout[0]: which of a kernel's forms the arrays have.
SPMM, FEW_COLUMNS, FEW_COLUMNS_HALF = 0, 1, 2
# Slots of zeros behind the last one, so that a kernel may load whole vectors.
SPARE = 16


@dataclass(frozen=True, eq=False)
class Packed:
    """A sparse weight of dense shape ``shape``: ``[M, K]``, or ``[M, C, kh, kw]``.

    ``tensors`` holds one-dimensional ``values``, ``indices``, ``starts`` and ``layout``; those that
    a form has no use for are empty. ``layout`` is ``[form, depth, block, keep]``, int64. Nothing
    may write to the tensors afterwards.
    """

    kernel: str
    pattern: str
    shape: tuple[int, ...]
    tensors: dict[str, Tensor]

    @property
    def form(self) -> int:
        """Which form the arrays have: ``SPMM``, ``FEW_COLUMNS`` or ``FEW_COLUMNS_HALF``."""
        return self.layout[0]

    @property
    def layout(self) -> list[int]:
        """``[form, depth, block, keep]``."""
        return [int(number) for number in self.tensors["layout"].tolist()]

    @property
    def arrays(self) -> list[Tensor]:
        """The four tensors in the order in which the torch operators take them."""
        return [self.tensors[field] for field in FIELDS]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def packed_from(
    kernel: str,
    pattern: str,
    shape: Sequence[int],
    layout: Sequence[int],
    arrays: tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]],
) -> Packed:
    """Return a ``Packed`` that owns ``arrays``: values, indices, starts."""
    named = dict(zip(FIELDS, (*arrays, np.array(layout, dtype=np.int64)), strict=True))
    tensors = {field: torch.from_numpy(np.ascontiguousarray(a)) for field, a in named.items()}
    return Packed(kernel, pattern, tuple(shape), tensors)


def nothing(dtype: type[np.generic]) -> NDArray[np.generic]:
    """Return the array of a field that a form has no use for."""
    return np.zeros(0, dtype=dtype)


def refuse(packed: Packed, field: str, rule: str, found: object) -> InputError:
    """Return the error for a packed weight that breaks a rule."""
    return InputError(
        f"packed weight ({packed.kernel}, {packed.pattern}, shape {list(packed.shape)}): "
        f"`{field}` must {rule}, but got {found}; pack the dense weight again, or load a file that "
        "is not damaged"
    )


def check_frame(packed: Packed, kernel: str, patterns: Sequence[str]) -> list[int]:
    """Return ``layout`` of a packed weight whose fields are all there and of the right kind.

    Raises ``InputError`` for another kernel's weight, a shape that no layer has, a missing tensor,
    and tensors that are not one-dimensional, contiguous and in main memory.
    """
    if packed.kernel != kernel or packed.pattern not in patterns:
        rule = f"be {kernel!r} with a pattern of {', '.join(patterns)}"
        raise refuse(packed, "kernel", rule, f"{packed.kernel!r} with {packed.pattern!r}")
    sizes = packed.shape
    if len(sizes) not in (2, 4) or not all(type(size) is int and size > 0 for size in sizes):
        raise refuse(packed, "shape", "be [M, K] or [M, C, kh, kw], all at least 1", list(sizes))
    for field in FIELDS:
        tensor = packed.tensors.get(field)
        if not isinstance(tensor, Tensor):
            raise refuse(packed, field, "be a tensor", type(tensor).__name__)
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise refuse(packed, field, "be a plain tensor on the CPU", tensor.device)
        if tensor.dim() != 1 or not tensor.is_contiguous():
            found = f"shape {list(tensor.shape)} with strides {list(tensor.stride())}"
            raise refuse(packed, field, "be one-dimensional and contiguous", found)
        end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
        if tensor.untyped_storage().nbytes() < end:
            raise refuse(packed, field, "have memory behind it", "a storage that was cut short")
    expect(packed, "layout", torch.int64, 4)
    return packed.layout


def expect(packed: Packed, field: str, dtype: torch.dtype, length: int) -> None:
    """Raise ``InputError`` unless the field has this type and length."""
    tensor = packed.tensors[field]
    if tensor.dtype != dtype:
        rule = f"have type {dtype}"
        if tensor.is_floating_point():
            rule += " (packed weights are not converted by `.half()`, `.float()` or `.double()`)"
        raise refuse(packed, field, rule, tensor.dtype)
    if tensor.numel() != length:
        raise refuse(packed, field, f"have {length} elements", tensor.numel())


def expect_layout(packed: Packed, layout: Sequence[int]) -> None:
    """Raise ``InputError`` unless ``layout`` is the one that the shape and the pattern ask for."""
    if packed.layout != list(layout):
        rule = f"be {list(layout)} ([form, depth, block, keep])"
        raise refuse(packed, "layout", rule, packed.layout)
