"""Channels that grouped convolutions let go only together.

A grouped convolution can be sliced where every one of its groups loses inputs at the same places,
and equally many outputs. So the channels at one place of all its groups are one unit: with C
channels and g groups, unit j is j, j + C/g, j + 2 C/g, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def units_of(channels: int, tables: Sequence[Ints]) -> Ints:
    """Return the unit ``[channels]`` that each channel is part of, numbered in order of channels.

    A table ``[groups, places]`` has the channel at each place of each group of one layer; channels
    in the same column of any table share a unit. Where layers of several group counts meet, a unit
    has as many channels as their least common multiple.
    """
    first = np.arange(channels)  # known so far: the lowest channel of the same unit
    while True:
        before = first.copy()
        for table in tables:
            lowest = np.broadcast_to(first[table].min(axis=0), table.shape)
            np.minimum.at(first, table, lowest)
        if np.array_equal(first, before):
            return np.unique(first, return_inverse=True)[1]
