"""The layers that read pruned channels, and which columns of their moments a plan keeps.

All groups of a grouped convolution keep the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc.compress import Kept
from amc.coupling import ChannelGroup, Member
from amc.reconstruction.rows import LAYERS, Layer, positions_of_kernel

Orders = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Consumer:
    """One layer, and by which groups its inputs are decided: a ``uses`` member a group's name."""

    name: str
    layer: Layer
    members: Mapping[str, Member]

    @property
    def only_group(self) -> str | None:
        """The one group that decides on inputs, ``None`` where there are several."""
        return next(iter(self.members)) if len(self.members) == 1 else None

    def kept_columns(self, mask: NDArray[np.bool_]) -> Tensor:
        """Return the columns ``[k]`` of each group that an input ``mask [in / g]`` keeps."""
        return self._columns(torch.from_numpy(np.flatnonzero(mask)), len(mask))

    def order(self, group: str, channels: Sequence[int]) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the columns in the order in which ``group`` adds its ``channels`` to the others.

        The second value, ``[channels + 1]``, says how many columns there are with the first
        0, 1, .. channels. Columns that do not depend on the group come first.
        """
        member = self.members[group]
        own = [member.index[member.channel == channel] for channel in channels]
        others = np.setdiff1d(np.arange(member.size), member.index)
        constant = self._columns(torch.from_numpy(others), member.size)
        parts = [self._columns(torch.from_numpy(i), member.size, bias=False) for i in own]
        counts = np.cumsum([len(constant), *map(len, parts)])
        return torch.cat([constant, *parts]), counts

    def _columns(self, inputs: Tensor, size: int, bias: bool = True) -> Tensor:
        """Return the columns of some of a group's ``size`` inputs, then that of ones, if any."""
        offsets = torch.arange(positions_of_kernel(self.layer)) * size
        columns = (offsets[:, None] + inputs).flatten()
        if bias and self.layer.bias is not None:
            ones = torch.tensor([positions_of_kernel(self.layer) * size])
            columns = torch.cat([columns, ones])
        return columns


def consumers_of(network: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Consumer]:
    """Return every layer whose inputs the groups decide on, by name."""
    modules = dict(network.named_modules())
    members: dict[str, dict[str, Member]] = {}
    for group in groups:
        for member in group.members:
            if member.role == "uses":
                members.setdefault(member.layer, {})[group.name] = member
    found = {}
    for name, own in members.items():
        layer = modules[name]
        assert isinstance(layer, LAYERS)
        found[name] = Consumer(name, layer, own)
    return found


def is_prefix(order: Sequence[int], kept: Kept, group: str) -> bool:
    """Return whether a plan keeps the first so many channels of ``order``."""
    return group not in kept or set(order[: len(kept[group])]) == set(kept[group])
