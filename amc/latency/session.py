"""One sitting of measuring: kernels take turns as they do in the network.

How an operation is timed decides whether a table is right. Each call runs once, not in a hot loop:
a turn goes through operations in the network's order, each of another shape, so that code and
weights are as warm or cold as they are there. What a call reads is rewritten just before it,
because in a network the operation before has just written it, and lies in memory that the
operations of a turn share. A fixed reference operation takes part in every turn and is the unit of
time: machines drift by 10% and more. Other ways of calling (at once again, or with caches full of
other data) are timed once a kernel, to be known.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from amc.kernels import KERNELS
from amc.kernels.arena import Arena
from amc.latency.calm import SLOWED, Calm, as_slowed
from amc.latency.checkpoint import Checkpoint, Turn
from amc.latency.clock import Settled, Timing, settled, timed, timed_warm
from amc.latency.grid import Floats
from amc.latency.ops import OpTemplate
from amc.latency.reference import Reference
from amc.registry import lookup

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
RUNS = 4  # of a whole network in a turn
EVICTED_BYTES = 16 << 20  # read between two calls to fill a core's own caches with other data
CACHE_REPEATS = 5
PATIENCE_S = 3.0  # at first, for other programs to let the core alone

Progress = Callable[[int, int, str], None]
Point = tuple[OpTemplate, tuple[int, ...]]


class Kernel(Protocol):
    """What measuring needs of an entry of ``amc.kernels.KERNELS``."""

    @staticmethod
    def backend() -> str:
        """Return the name of what runs."""
        ...

    @staticmethod
    def prepare(
        template: OpTemplate, dims: Sequence[int], arena: Arena | None = None
    ) -> tuple[Callable[[], Any], list[Tensor]]:
        """Return a call of the operation at ``dims``, and the activations that it reads."""
        ...


@dataclass(frozen=True)
class WholeNetwork:
    """A network to be timed beside the kernels: its ``network_key``, deployed, and its inputs."""

    key: str
    network: nn.Module
    inputs: tuple[Tensor, ...]


@dataclass
class Session:
    """All timings of one sitting, of points and of whole networks, in units of the reference.

    The unit is the reference operation's time in the same turn, so a clock that drifts cancels out;
    ``sequence`` names the network's operations (``OpTemplate.name``) in its order; points are timed
    in layer order, so that a turn is as long as a network. Turns that ``checkpoint`` has on record
    are taken from it. ``patience_s`` is how long it waits for a calm core at first, ``PATIENCE_S``
    where it is ``None``; ``goal_s`` is how fast the reference is known to be on a calm one.
    """

    sequence: Sequence[str]
    threads: int
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None, {}))
    patience_s: float | None = None
    goal_s: float | None = None
    points: dict[tuple[str, tuple[int, ...]], list[Timing]] = field(default_factory=dict)
    _units: list[tuple[float, bool]] = field(default_factory=list)
    _networks: list[tuple[float, str, list[Timing]]] = field(default_factory=list)

    @property
    def as_turn(self) -> Turn:
        """All that was timed of whole networks, as if in one turn."""
        calm = any(calm for _, calm in self._units)
        return Turn(float(np.median(self.reference_s)), calm, [], self.networks)

    @property
    def networks(self) -> dict[str, list[Timing]]:
        """The timings of whole networks; what a core slower than at its best took is not calm.

        A process that never saw the core at its best cannot know; what it timed tells here.
        """
        best_s = self.goal_s or float("inf")
        its: dict[str, list[Timing]] = {}
        for unit_s, key, timings in self._networks:
            slowed = unit_s > SLOWED * best_s
            its.setdefault(key, []).extend(as_slowed(timings) if slowed else timings)
        return its

    @property
    def reference_s(self) -> list[float]:
        """The reference's time in every turn that was calm, or in all where none was; seconds."""
        return [s for s, calm in self._units if calm] or [s for s, _ in self._units]

    @cached_property
    def calm(self) -> Calm:
        """What waits for the core to be calm."""
        patience_s = PATIENCE_S if self.patience_s is None else self.patience_s
        return Calm(Reference().timings, patience_s, self.goal_s)

    def time(self, points: Sequence[Point], repeats: int, what: str) -> None:
        """Time every point at least ``repeats`` times, in turns that look like the network."""
        turns = self._turns(points)
        for done, turn in enumerate(turns):
            self.time_turn(turn, repeats)
            self.progress(done + 1, len(turns), what)

    def _turns(self, points: Sequence[Point]) -> list[list[Point]]:
        """Return lists of points, each with the operations of the network in its order.

        A place for a convolution, say, takes any convolution's point. The first lists hold the
        smallest points of every kernel, the last ones the largest: in a narrow network each call
        finds the caches as narrow calls left them. Where points are few, they come again.
        Dense and sparse layers have lists of their own, and functions are in both: a dense layer
        takes longer right after a sparse one, and what that costs is known apart.
        """
        kinds = {point[0].call_kind for point in points}
        layers = sorted(kinds - {"function"}) or ["function"]
        return [
            turn
            for layer in layers
            for turn in self._family_turns(
                [point for point in points if point[0].call_kind in {layer, "function"}]
            )
        ]

    def _family_turns(self, points: Sequence[Point]) -> list[list[Point]]:
        by_op: dict[str, list[tuple[float, int, Point]]] = {}
        for order, (quantile, point) in enumerate(_by_size(points)):
            by_op.setdefault(point[0].name, []).append((quantile, order, point))
        places = {op: max(self.sequence.count(op), 1) for op in by_op}
        turns = max((-(-len(its) // places[op]) for op, its in by_op.items()), default=0)
        lists = []
        for turn in range(turns):
            its = {op: _share(sorted(by_op[op]), turn, turns, places[op]) for op in by_op}
            lists.append([next(its[op]) for op in self.sequence if op in by_op])
        return lists

    def time_turn(
        self, points: Sequence[Point], repeats: int, networks: Sequence[WholeNetwork] = ()
    ) -> None:
        """Go through ``points`` ``repeats`` times, then run ``networks``."""
        self._take(points, lambda: self._timed_turn(points, repeats, networks))

    def add_turn(self, of_networks: Callable[[float | None], Turn]) -> None:
        """Take a turn of whole networks that ``of_networks(goal_s)`` times, in another process."""
        self._take([], lambda: of_networks(self.goal_s))

    def _take(self, points: Sequence[Point], time_turn: Callable[[], Turn]) -> None:
        turn = self.checkpoint.replayed(points)
        if turn is None:
            turn = time_turn()
            self.checkpoint.record(points, turn)
        self._units.append((turn.reference_s, turn.calm))
        if turn.calm:
            self.goal_s = min(self.goal_s or turn.reference_s, turn.reference_s)
        for point, timings in zip(points, turn.points, strict=True):
            self._samples(point).extend(timings)
        self._networks += [(turn.reference_s, key, its) for key, its in turn.networks.items()]

    def _timed_turn(
        self, points: Sequence[Point], repeats: int, networks: Sequence[WholeNetwork]
    ) -> Turn:
        arena = Arena(points)
        calls = [prepare(*point, arena) for point in points]
        passes: list[list[Timing]] = []
        clock: list[Timing] = []
        whole: dict[str, list[Timing]] = {}

        def once() -> list[Timing]:
            timings = []
            for call, activations in calls:
                refresh(activations)
                timings.append(timed(call))
            return timings

        for call, _ in calls:  # the first call of each builds its kernel, and says nothing
            call()
        for _ in range(repeats if points else 0):
            timings, around = self.calm.during(once)
            passes.append(timings)
            clock += around
        for its in networks:
            whole[its.key], around = self.calm.during(partial(_run, its))
            clock += around
        calm = [timing for timing in clock if timing.calm]
        unit = settled(calm or clock, self.threads).median
        return Turn(
            unit,
            bool(calm),
            [[t.scaled(1 / unit) for t in its] for its in zip(*passes, strict=True)],
            {key: [t.scaled(1 / unit) for t in its] for key, its in whole.items()},
        )

    def caches(self, point: Point) -> tuple[float, float]:
        """Return the median of ``point`` called at once again, and with caches full of other data.

        In units of the reference operation, like everything.
        """
        call, _ = prepare(*point)
        reference, other = Reference(), torch.ones(EVICTED_BYTES // 4)
        clock, cold = reference.timings(), []
        warm = timed_warm(call, CACHE_REPEATS)
        for _ in range(CACHE_REPEATS):
            other.sum()
            cold.append(timed(call))
        unit = settled([*clock, *reference.timings()], self.threads).median
        return (
            settled(warm, self.threads, 3).median / unit,
            settled(cold, self.threads, 3).median / unit,
        )

    def settled(self, point: Point) -> Settled:
        """Return the timings of a point that count."""
        return settled(self._samples(point), self.threads)

    def curve(self, template: OpTemplate, dims: Sequence[tuple[int, ...]]) -> Floats:
        """Return the median time of a kernel at each of ``dims``."""
        return np.array([self.settled((template, d)).median for d in dims])

    def _samples(self, point: Point) -> list[Timing]:
        return self.points.setdefault((point[0].key, point[1]), [])


def _by_size(points: Sequence[Point]) -> list[tuple[float, Point]]:
    """Return the points in their order, each with its rank by size in its kernel, in [0, 1)."""
    kernels: dict[str, list[Point]] = {}
    for point in points:
        kernels.setdefault(point[0].key, []).append(point)
    return [
        (rank / len(its), point)
        for its in kernels.values()
        for rank, point in enumerate(sorted(its, key=lambda point: prod(point[1])))
    ]


def _share(
    ranked: Sequence[tuple[float, int, Point]], turn: int, turns: int, places: int
) -> Iterator[Point]:
    """Return ``places`` points for one of the ``turns``, in layer order; all are in some turn."""
    n = len(ranked)
    own = ranked[n * turn // turns : n * (turn + 1) // turns] or [ranked[n * turn // turns]]
    filled = [own[i % len(own)] for i in range(max(places, len(own)))]
    return iter([point for _, _, point in sorted(filled, key=lambda entry: entry[1])])


def prepare(
    template: OpTemplate, dims: Sequence[int], arena: Arena | None = None
) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return the call of a kernel at widths ``dims``, and the activations that it reads."""
    kernel: Kernel = lookup(KERNELS, template.kernel, "kernel")
    return kernel.prepare(template, dims, arena)


def _run(its: WholeNetwork) -> list[Timing]:
    return timed_warm(lambda: its.network(*its.inputs), RUNS)


def refresh(activations: Sequence[Tensor]) -> None:
    """Write every activation anew, with the same numbers."""
    for tensor in activations:
        if tensor.is_floating_point():
            tensor.mul_(1.0)


@contextmanager
def device_settings(threads: int) -> Iterator[None]:
    """Run under inference mode with ``threads`` threads of torch, and put the number back.

    The process keeps memory that is freed from here on: giving it back to the system and faulting
    it in again takes a layer as long as its arithmetic, now and then, and makes timings random.
    """
    _keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
