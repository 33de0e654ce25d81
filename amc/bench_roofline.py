"""The least time that a kernel's own design allows here: what ``fraction_of_roofline`` is of.

The model has two terms, and the larger one is the roofline:

- *Multiply-adds*, against the core's measured peak on registers. In a product a row of ``nm`` or
  ``csr`` loads one vector of activations a multiply-add, and one broadcast weight for every 8 of
  them (a panel is 8 vectors wide). A core that starts as many loads as multiply-adds a cycle, as
  x86-64 with AVX2 or AVX-512 does, then reaches 8/9 of its peak. Indices, ragged columns and the
  packing of activations would lower that and are left out, so it is a bound. A 4x1 ``block`` loads
  less than it multiplies: its bound is the peak. With few columns the peak is taken too.
- *Memory*, for up to ``FEW`` columns: bytes of the packed weight, the activations and the output
  over the bandwidth of reading as many bytes (the fastest of torch's ``sum``, ``dot`` and ``amax``,
  timed in the same rounds). All find their data in the same cache when they are called again. This
  bandwidth is measured, not a bound: a kernel that reads several streams at once came out at up to
  1.1. In wider products every weight is used so often that this term is not the larger one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from amc.bench_rivals import Call

FEW = 24  # columns, up to which memory may set the pace
STREAMS = ("sum", "dot", "amax")
PANEL = 8  # vectors of columns that one broadcast weight serves
LOADS = {"nm": 1 + 1 / PANEL, "csr": 1 + 1 / PANEL, "csc": 1 + 1 / PANEL, "block": 1.0}


@dataclass(frozen=True)
class Roofline:
    """The least ``seconds`` of one call, and what sets them: "multiply-adds", "loads", "memory"."""

    seconds: float
    limit: str


def stream_calls(size_bytes: int) -> dict[str, Call]:
    """Return calls that read ``size_bytes`` bytes once, and do next to nothing else."""
    numbers = torch.ones(max(1, size_bytes // 4))
    return {"sum": numbers.sum, "amax": numbers.amax, "dot": lambda: torch.dot(numbers, numbers)}


def flops_of(row: Mapping[str, Any]) -> float:
    """Return the additions and multiplications of a row's non-zero weights."""
    return 2 * float(np.prod(row["shape"])) * (1 - float(row["sparsity"]))


def roofline(
    row: Mapping[str, Any], peak_flops: float, size_bytes: int, bandwidth: float | None
) -> Roofline:
    """Return the roofline of a row of the benchmark.

    ``peak_flops`` a second of all its threads; ``bandwidth`` in bytes a second at ``size_bytes``,
    ``None`` where memory is no limit.
    """
    few = row["shape"][2] <= FEW
    loads = 1.0 if few else LOADS[row["kernel"]]
    compute = Roofline(
        flops_of(row) / peak_flops * loads, "loads" if loads > 1 else "multiply-adds"
    )
    if bandwidth is None:
        return compute
    memory = Roofline(size_bytes / bandwidth, "memory")
    return max(compute, memory, key=lambda one: one.seconds)
