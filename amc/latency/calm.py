"""Timing only while nothing else slows the core down.

Where two hardware threads share a core, or a hypervisor shares machines, another program makes
everything slower for seconds at a time, by 1.7 times where this was written, and not everything
alike: no factor brings such timings back. What tells is the reference operation, timed right
before and right after: near its usual fastest, what lies between counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from amc.latency.clock import Timing

SLOWED = 1.15  # times the fast reference: more, and something else is running
FAST_QUANTILE = 0.1  # of all readings: the fast reference; the very fastest may be a lucky moment
LOOK_S = 0.5  # at first, for how fast the reference can be
PAUSE_S = 0.01  # between two looks
PATIENCE = 1.0  # seconds of waiting that a second of calm work allows


class Calm:
    """Knows how fast the reference usually is at its best, and waits until it is so again.

    ``read`` times the reference, warm. ``patience_s``, and as much again as calm work takes times
    ``PATIENCE``, is spent on waiting and on timing again; after that, timings say that they were
    not calm. ``goal_s`` is how fast the reference was for a table: the first look takes longer
    until it is as fast.
    """

    def __init__(
        self,
        read: Callable[[], list[Timing]],
        patience_s: float,
        goal_s: float | None = None,
    ) -> None:
        self._read, self._patience_s = read, patience_s
        self._readings: list[float] = []
        begin = time.monotonic()
        while time.monotonic() - begin < LOOK_S or not self._readings:
            self._look()
        while goal_s and self.fast_s > SLOWED * goal_s and self._patience_s > 0:
            self._wait()

    @property
    def fast_s(self) -> float:
        """How long the reference takes when all is calm, seconds."""
        return float(np.quantile(self._readings, FAST_QUANTILE))

    def during(self, work: Callable[[], list[Timing]]) -> tuple[list[Timing], list[Timing]]:
        """Run ``work`` until one run was calm; return its timings, and the reference's around it.

        Where patience ends first, they are of the last run, and none of them counts as calm.
        """
        while True:
            before, calm = self._look()
            while not calm and self._patience_s > 0:
                before, calm = self._wait()
            begin = time.monotonic()
            timings = work()
            after, still = self._look()
            taken = time.monotonic() - begin
            if calm and still:
                self._patience_s += PATIENCE * taken
                return timings, before + after
            self._patience_s -= taken
            if self._patience_s <= 0:
                return as_slowed(timings), as_slowed(before + after)

    def _look(self) -> tuple[list[Timing], bool]:
        timings = self._read()
        best_s = min(timing.wall_s for timing in timings)
        self._readings.append(best_s)
        return timings, best_s <= SLOWED * self.fast_s

    def _wait(self) -> tuple[list[Timing], bool]:
        begin = time.monotonic()
        time.sleep(PAUSE_S)
        found = self._look()
        self._patience_s -= time.monotonic() - begin
        return found


def as_slowed(timings: Sequence[Timing]) -> list[Timing]:
    """Return the timings as those of a core that something else slowed down."""
    return [replace(timing, calm=False) for timing in timings]
