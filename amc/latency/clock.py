"""Timings that hold on a machine that others use too, and how sure their median is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np

from amc.latency.grid import Floats

# A call whose thread was off the processor for longer than this was interrupted.
AWAY_SHARE = 0.03
AWAY_S = 2e-6


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: by the wall clock, and on the processor by the calling thread.

    ``calm`` says that the thread was not interrupted, nor the core slowed down by other programs.
    """

    wall_s: float
    cpu_s: float
    calm: bool

    def scaled(self, factor: float) -> Timing:
        """Return the timing in another unit."""
        return Timing(self.wall_s * factor, self.cpu_s * factor, self.calm)


@dataclass(frozen=True)
class Settled:
    """The seconds of a call that count; ``clock`` is "wall", or "cpu" where it was crowded out."""

    seconds: Floats
    clock: str

    @property
    def median(self) -> float:
        """The median, seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """The interquartile range divided by the median."""
        low, middle, high = np.percentile(self.seconds, (25, 50, 75))
        return float((high - low) / middle)

    @property
    def interval(self) -> float:
        """Half the width of the median's 95% interval, divided by the median.

        From order statistics: no distribution is assumed. Infinite for fewer than six timings.
        """
        n = len(self.seconds)
        if n < 6:
            return float("inf")
        ordered, first = np.sort(self.seconds), _first_rank(n)
        return float((ordered[n - 1 - first] - ordered[first]) / 2 / np.median(ordered))


@lru_cache
def _first_rank(n: int) -> int:
    """Return the largest i for which the median lies in ``[i, n - 1 - i]`` of n ordered timings.

    With a probability of 95%: at most one in 40 times are i or fewer of n timings below it.
    """
    probability, first = 0.0, -1
    while probability <= 0.025:
        first += 1
        probability += comb(n, first) / (1 << n)
    return max(first - 1, 0)


def timed(call: Callable[[], Any]) -> Timing:
    """Return how long one call takes."""
    cpu = time.thread_time()
    start = time.perf_counter()
    call()
    wall_s = time.perf_counter() - start
    cpu_s = time.thread_time() - cpu
    return Timing(wall_s, cpu_s, wall_s - cpu_s <= AWAY_SHARE * wall_s + AWAY_S)


def timed_warm(call: Callable[[], Any], times: int) -> list[Timing]:
    """Return ``times`` timings of a call that repeats itself, after one that warms up."""
    call()
    return [timed(call) for _ in range(times)]


def settled(timings: Sequence[Timing], threads: int, fewest: int = 6) -> Settled:
    """Return the timings during which the calling thread was not interrupted, by the wall clock.

    Where fewer than ``fewest`` are left, another program shares the core: the time on the processor
    is then what an idle one would take, and is returned. With several threads, whose waits for one
    another look like interruptions, every wall time counts.
    """
    wall = np.array([timing.wall_s for timing in timings])
    if threads > 1:
        return Settled(wall, "wall")
    cpu = np.array([timing.cpu_s for timing in timings])
    calm = np.array([timing.calm for timing in timings])
    if calm.sum() < min(fewest, len(timings)):
        return Settled(np.minimum(cpu, wall), "cpu")
    return Settled(wall[calm], "wall")
