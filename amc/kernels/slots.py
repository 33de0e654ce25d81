"""Slots by (block of depth, row group): the arrays that ``csr`` and ``block`` weights share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amc.errors import InputError
from amc.kernels.depth import block_lengths
from amc.kernels.packed import SPARE, Packed, expect, refuse

MOST_SLOTS = 2**32 - 1  # what a start, a uint32, can tell
MOST_BLOCK = 65536  # what an index, a uint16, can tell


def find_slots(kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """Return where ``kept`` ``[blocks, groups, block]`` is true: flat positions, starts, indices.

    Starts have one number for each (block, group) and one more; indices are depths within the
    block, followed by spare zeros. Raises ``InputError`` for more than ``MOST_SLOTS``.
    """
    found = np.flatnonzero(kept)
    if len(found) > MOST_SLOTS:
        raise InputError(
            f"a packed weight holds at most {MOST_SLOTS} slots, but got {len(found)}; "
            "split the layer"
        )
    counts = np.count_nonzero(kept, axis=2).ravel()
    starts = np.zeros(len(counts) + 1, dtype=np.uint32)
    starts[1:] = np.cumsum(counts)
    indices = np.zeros(len(found) + SPARE, dtype=np.uint16)
    indices[: len(found)] = found % kept.shape[2]
    return found, starts, indices


def slot_places(packed: Packed, groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row group and the depth of every slot of a weight that was checked."""
    block = packed.layout[2]
    starts = packed.tensors["starts"].numpy().astype(np.int64)
    indices = packed.tensors["indices"].numpy()[: starts[-1]].astype(np.int64)
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return owner % groups, owner // groups * block + indices


def check_slots(packed: Packed, groups: int, limits: NDArray[np.int64], width: int) -> None:
    """Raise ``InputError`` unless starts, indices and values fit each other.

    ``limits[s]`` is what the indices between starts ``s`` and ``s + 1`` must stay below, and
    ``width`` the number of values a slot has. Indices ascend, and the spare slots are zeros.
    """
    expect(packed, "starts", torch.uint32, len(limits) + 1)
    starts = packed.tensors["starts"].numpy().astype(np.int64)
    if starts[0] != 0 or np.any(np.diff(starts) < 0):
        at = int(np.argmax(np.diff(starts) < 0)) + 1 if starts[0] == 0 else 0
        raise refuse(packed, "starts", "begin with 0 and never fall", f"{starts[at]} at {at}")
    slots = int(starts[-1])
    expect(packed, "indices", torch.uint16, slots + SPARE)
    expect(packed, "values", torch.float32, width * slots + SPARE)
    for field, used in (("indices", slots), ("values", width * slots)):
        spare = packed.tensors[field].numpy()[used:]
        if np.any(spare != 0):
            raise refuse(packed, field, f"end with {SPARE} zeros", spare.tolist())
    indices = packed.tensors["indices"].numpy()[:slots].astype(np.int64)
    owner = np.repeat(np.arange(len(limits)), np.diff(starts))
    outside = np.flatnonzero(indices >= limits[owner])
    if len(outside):
        slot = int(outside[0])
        limit = int(limits[owner[slot]])
        raise refuse(packed, "indices", f"be below {limit} in slot {slot}", int(indices[slot]))
    falling = np.flatnonzero((np.diff(indices) <= 0) & (np.diff(owner) == 0))
    if len(falling):
        slot = int(falling[0]) + 1
        raise refuse(packed, "indices", f"ascend, in slot {slot}", int(indices[slot]))


def check_blocked_slots(packed: Packed, groups: int, width: int) -> None:
    """Raise ``InputError`` unless the slots fit the blocks of depth of ``packed.layout``."""
    _, depth, block, _ = packed.layout
    limits = np.repeat(block_lengths(depth, block), groups)
    check_slots(packed, groups, limits, width)
