"""One sitting of measuring: kernels take turns as they do in the network.

How an operation is timed decides whether a table is right. Each call runs once, not in a hot loop:
a turn goes through the network's kernels in the network's order, each at another width, so that
code and weights are as warm or cold as they are there; and what a call reads is rewritten just
before it, because in a network the operation before has just written it. A fixed reference
operation takes part in every turn, so that later sessions can be brought to this one's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.kernels import KERNELS
from amc.kernels.dense import Dense
from amc.latency.clock import Settled, Timing, settled, timed
from amc.latency.grid import Floats
from amc.latency.ops import OpTemplate
from amc.registry import lookup

Progress = Callable[[int, int, str], None]
Point = tuple[OpTemplate, tuple[int, ...]]


@dataclass(frozen=True)
class DenseNetwork:
    """A whole network to be timed beside its kernels: its ``network_key``, deployed, and inputs."""

    key: str
    network: nn.Module
    inputs: tuple[Tensor, ...]


@dataclass
class Session:
    """All timings of one sitting: of points, of the reference, and of whole networks.

    ``sequence`` lists kernel keys in the order of the network's operations.
    """

    sequence: Sequence[str]
    threads: int
    dense: Sequence[DenseNetwork]
    progress: Progress
    reference: list[Timing] = field(default_factory=list)
    networks: dict[str, list[Timing]] = field(default_factory=dict)
    points: dict[tuple[str, tuple[int, ...]], list[Timing]] = field(default_factory=dict)

    def time(self, points: Sequence[Point], repeats: int, what: str) -> None:
        """Time every point at least ``repeats`` times, in turns that look like the network."""
        turns = self._turns(points)
        for done, turn in enumerate(turns):
            self.time_turn(turn, repeats)
            self.progress(done + 1, len(turns), what)

    def _turns(self, points: Sequence[Point]) -> list[list[Point]]:
        """Return lists of points, each with the operations of the network in its order.

        A place for a convolution, say, takes any convolution's point, those of early layers early;
        where points of an operation are few, they come again. Every point is in one list or more.
        """
        by_op: dict[str, list[Point]] = {}
        for point in points:
            by_op.setdefault(point[0].op, []).append(point)
        places = {op: max(self.sequence.count(op), 1) for op in by_op}
        count = max((-(-len(its) // places[op]) for op, its in by_op.items()), default=0)
        endless = {op: cycle(its[t] for t in _strided(len(its), count)) for op, its in by_op.items()}
        turns = []
        order = [op for op in self.sequence if op in by_op]
        for _ in range(count):
            turn = {op: iter(list(islice(endless[op], places[op]))) for op in by_op}
            turns.append([next(turn[op]) for op in order])
        return turns

    def time_turn(self, points: Sequence[Point], repeats: int) -> None:
        """Go through ``points`` ``repeats`` times, then run the dense networks."""
        calls = [(self._samples(point), *prepare(*point)) for point in points]
        reference = Reference()
        for repeat in range(repeats + 1):
            for samples, call, activations in calls:
                refresh(activations)
                timing = timed(call)
                if repeat:  # the first call builds the kernel
                    samples.append(timing)
            timing = reference.time()
            if repeat:
                self.reference.append(timing)
        for dense in self.dense:
            timings = self.networks.setdefault(dense.key, [])
            for warm in (False, True, True):
                timing = timed(lambda d=dense: d.network(*d.inputs))  # type: ignore[misc]
                if warm:
                    timings.append(timing)

    def settled(self, point: Point) -> Settled:
        """Return the timings of a point that count."""
        return settled(self._samples(point), self.threads)

    def curve(self, template: OpTemplate, dims: Sequence[tuple[int, ...]]) -> Floats:
        """Return the median seconds of a kernel at each of ``dims``."""
        return np.array([self.settled((template, d)).median for d in dims])

    def _samples(self, point: Point) -> list[Timing]:
        return self.points.setdefault((point[0].key, point[1]), [])


class Reference:
    """The fixed operation by which clocks of different times are compared: one 3x3 convolution."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.rand(32, 32, 14, 14, generator=generator)
        self._x = self._x.to(memory_format=torch.channels_last)
        self._weight = torch.rand(32, 32, 3, 3, generator=generator)
        self._weight = self._weight.to(memory_format=torch.channels_last)

    def time(self) -> Timing:
        """Return how long one call takes."""
        refresh([self._x])
        return timed(lambda: torch.conv2d(self._x, self._weight, None, 1, 1))


def prepare(template: OpTemplate, dims: Sequence[int]) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return the call of a kernel at widths ``dims``, and the activations that it reads."""
    backend: type[Dense] = lookup(KERNELS, template.kernel, "kernel")
    return backend.prepare(template, dims)


def refresh(activations: Sequence[Tensor]) -> None:
    """Write every activation anew, with the same numbers."""
    for tensor in activations:
        if tensor.is_floating_point():
            tensor.mul_(1.0)


@contextmanager
def device_settings(threads: int) -> Iterator[None]:
    """Run under inference mode with ``threads`` threads of torch, and put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
