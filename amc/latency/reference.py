"""The unit of time: an operation whose own time is that of the processor's clock alone."""

from __future__ import annotations

import torch

from amc.latency.clock import Timing, timed_warm


class Reference:
    """The fixed operation by which clocks of different times are compared: a 3x3 convolution.

    It is small enough to live in a core's own cache, so that only the clock changes its time and
    not what ran before it.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x, self._weight = (
            torch.rand(shape, generator=generator).to(memory_format=torch.channels_last)
            for shape in ((8, 32, 14, 14), (32, 32, 3, 3))
        )

    def timings(self, count: int = 2) -> list[Timing]:
        """Return ``count`` timings, taken when the operation is warm."""
        for _ in range(2):
            self._call()
        return timed_warm(self._call, count)

    def _call(self) -> None:
        torch.conv2d(self._x, self._weight, None, 1, 1)
