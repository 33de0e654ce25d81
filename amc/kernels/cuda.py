"""Sparse layers on CUDA: torch's semi-structured tensors for ``nm``, its sparse CSR for the rest.

The kernels' names are those of the CPU; the arrays are torch's own, so a weight is packed here from
its dense form. What shapes and types the libraries behind torch take is checked before the call.
Unlike on the CPU, a pruned zero may be multiplied, so NaN may reach more outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from amc.errors import InputError
from amc.kernels.depth import ceil_to, depth_of
from amc.kernels.geometry import conv_geometry, linear_geometry
from amc.kernels.patterns import first_violation
from amc.kernels.torch_backend import columns_of

# What both sizes of a semi-structured weight [M, depth] must be multiples of (cuSPARSELt), and what
# the number of columns is padded to.
MULTIPLES = {torch.float16: (16, 8), torch.bfloat16: (16, 8), torch.int8: (32, 16)}
CSR_TYPES = (torch.float32, torch.float16, torch.bfloat16)
# "1:4" weights have the pattern "2:4" too; the hardware knows no other.
KERNELS = ("nm", "csr", "csc")


@dataclass(frozen=True, eq=False)
class CudaWeight:
    """A weight of dense shape ``shape``; ``matrix`` ``[M, depth]`` is torch's, on the device."""

    kernel: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    matrix: Tensor


def check_rules(kernel: str, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raise ``InputError`` unless ``kernel`` runs a weight of this shape and type on CUDA."""
    if kernel not in KERNELS:
        raise InputError(
            f"on CUDA there are kernels {', '.join(KERNELS)}, but got {kernel!r}; use 'csr'"
        )
    if len(shape) not in (2, 4) or min(shape) < 1:
        raise InputError(f"a weight must be [M, K] or [M, C, kh, kw], but got {list(shape)}")
    types: Sequence[torch.dtype] = tuple(MULTIPLES) if kernel == "nm" else CSR_TYPES
    if dtype not in types:
        raise InputError(
            f"kernel {kernel!r} on CUDA takes {', '.join(map(str, types))}, but got {dtype}"
        )
    if kernel != "nm":
        return
    if dtype == torch.int8 and len(shape) == 4:
        raise InputError("kernel 'nm' with int8 on CUDA runs linear layers; use torch.float16")
    if len(shape) == 4 and shape[1] % 4:
        raise InputError(
            f"kernel 'nm' on CUDA takes a multiple of 4 input channels, but got {shape[1]}; "
            "use 'csr', or leave the layer dense"
        )
    multiple, sizes = MULTIPLES[dtype][0], (shape[0], depth_of(shape))
    if any(size % multiple for size in sizes):
        raise InputError(
            f"kernel 'nm' with {dtype} on CUDA takes a weight whose rows and depth are multiples "
            f"of {multiple}, but got {list(sizes)}; use 'csr', or leave the layer dense"
        )


def pack(
    kernel: str, weight: Tensor, dtype: torch.dtype = torch.float16, device: str = "cuda"
) -> CudaWeight:
    """Return a dense weight in torch's format for ``kernel``, on ``device``.

    Raises ``InputError`` for what ``check_rules`` refuses, for a weight without the 2:4 pattern,
    and where there is no CUDA device.
    """
    check_rules(kernel, weight.shape, dtype)
    host = weight.detach().float().cpu()
    violation = first_violation(host, "2:4") if kernel == "nm" else None
    if violation:
        raise InputError(violation)
    if not torch.cuda.is_available():
        raise InputError(
            "sparse layers on CUDA need a CUDA device, and there is none; use amc.kernels.nm, csr, "
            "csc or block on the CPU"
        )
    taps = host if host.dim() == 2 else host.permute(0, 2, 3, 1)
    matrix: Any = taps.reshape(host.shape[0], -1).to(device=device, dtype=dtype).contiguous()
    with warnings.catch_warnings():
        # Both formats announce themselves as a prototype or in beta state.
        warnings.simplefilter("ignore", UserWarning)
        if kernel == "nm":
            matrix = torch.sparse.to_sparse_semi_structured(matrix)
        else:
            matrix = matrix.to_sparse_csr()
    return CudaWeight(kernel, tuple(weight.shape), dtype, matrix)


@torch.no_grad()
def run(
    weight: CudaWeight,
    x: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    relu: bool = False,
) -> Tensor:
    """Return the layer's output: ``[..., M]`` of ``[..., K]``, or ``[N, M, H', W']``.

    ``x`` has the weight's type and device; int8 weights give int32, and float32 with a bias.
    """
    if len(weight.shape) == 2:
        to = linear_geometry(x, weight.shape, weight.dtype)
        columns = x.reshape(-1, to.channels).t()
    else:
        to = conv_geometry(x, weight.shape, stride, padding, dilation, weight.dtype)
        columns = columns_of(x, to, 1)
    if x.device != weight.matrix.device:
        raise InputError(
            f"x must be on the weight's device {weight.matrix.device}, but is on {x.device}"
        )
    y = _product(weight, columns)
    if bias is not None:
        y = y + bias[:, None]
    if relu:
        y = torch.relu(y)
    if len(weight.shape) == 2:
        return y.t().reshape(*x.shape[:-1], to.rows)
    return y.reshape(to.rows, to.batch, to.out_height, to.out_width).transpose(0, 1)


def _product(weight: CudaWeight, columns: Tensor) -> Tensor:
    """Return ``[M, columns]``."""
    count = columns.shape[1]
    if weight.kernel != "nm":
        return torch.mm(weight.matrix, columns)
    padded = F.pad(columns, (0, ceil_to(count, MULTIPLES[weight.dtype][1]) - count))
    matrix: Any = weight.matrix
    if weight.dtype != torch.int8:
        return torch.mm(matrix, padded.contiguous())[:, :count]
    # The product of torch's tensor would saturate at 127; the library takes X column by column.
    by_column = padded.t().contiguous().t()
    y: Tensor = torch._cslt_sparse_mm(matrix.packed, by_column, out_dtype=torch.int32)
    return y[:, :count]
