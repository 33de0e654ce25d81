"""Timing whole networks on the device, brought to the clock of a latency table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from amc.deploy import deployed
from amc.latency.calm import SLOWED, Calm
from amc.latency.clock import Timing, settled, timed_warm
from amc.latency.reference import Reference
from amc.latency.session import device_settings
from amc.latency.table import LatencyTable
from amc.sparsify import LayerPattern, packed

PRECISION = 0.02  # of the 95% interval of a median, half its width
PATIENCE_S = 3.0  # at first, for the device to be as fast as it was for the table
PER_TURN = 3  # timings of each network in a turn, after one that warms up
TURNS = 8  # at least
FEWEST = 20  # timings of a subject by the wall clock, else the processor's time counts


@dataclass(frozen=True)
class Measured:
    """A network's time for one batch on the device.

    ``measured_latency_s`` is ``measured_raw_s`` (a median) divided by ``clock_factor``: how much
    slower the device was than when the table was measured, by the reference operation and, where
    the table knows it, the dense network, timed in turns with the subject. ``interval`` is half
    the width of the median's 95% interval, relative; ``noisy`` says that it stayed above 2%, or
    that the core was slower than for the table, by more than ``SLOWED`` most of the time.
    ``clock`` is "wall", or "cpu" where other programs kept interrupting: then the time that the
    network was on the processor stands for the time that an idle one would take.
    """

    measured_latency_s: float
    measured_raw_s: float
    clock_factor: float
    interval: float
    repeats: int
    clock: str
    noisy: bool

    def as_json(self) -> dict[str, Any]:
        """Return the measurement as a dict of JSON values."""
        return asdict(self)


def measure_network(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    table: LatencyTable,
    dense: tuple[str, nn.Module] | None = None,
) -> Measured:
    """Return the time of one network; see ``measure_networks``."""
    return measure_networks({"": network}, inputs, table, dense)[""]


def measure_networks(
    networks: Mapping[str, nn.Module],
    inputs: tuple[Tensor, ...],
    table: LatencyTable,
    dense: tuple[str, nn.Module] | None = None,
    seconds_each: float = 3.0,
    patterns: Mapping[str, Mapping[str, LayerPattern]] | None = None,
) -> dict[str, Measured]:
    """Return the time of each of ``networks`` on ``inputs``, one batch, with the table's threads.

    The networks are deployed first, and never changed; see ``measure_deployed``. Where ``patterns``
    names one, those of its layers run on their sparse kernels.
    """
    sparse = patterns or {}
    subjects = {
        name: packed(deployed(network, inputs), sparse.get(name, {}))
        for name, network in networks.items()
    }
    yardstick = (dense[0], deployed(dense[1], inputs)) if dense else None
    return measure_deployed(subjects, inputs, table, yardstick, seconds_each)


def measure_deployed(
    networks: Mapping[str, nn.Module],
    inputs: tuple[Tensor, ...],
    table: LatencyTable,
    dense: tuple[str, nn.Module] | None = None,
    seconds_each: float = 3.0,
    patience_s: float | None = None,
) -> dict[str, Measured]:
    """Return the time of each of ``networks``, which are run as they are.

    All of them, the reference operation and the ``dense`` network (its ``network_key`` and itself)
    take turns until every median is known to 2%, for at most ``seconds_each`` a network. What was
    timed while the core was slowed down is timed again; nothing else should run meanwhile.
    ``patience_s`` is how long it waits for a calm core at first (``None``: ``PATIENCE_S``).
    """
    known = table.networks.get(dense[0]) if dense else None
    samples: dict[str, list[Timing]] = {name: [] for name in networks}
    reference_t: list[Timing] = []
    dense_t: list[Timing] = []
    with device_settings(table.threads):
        wait_s = PATIENCE_S if patience_s is None else patience_s
        calm = Calm(Reference().timings, wait_s, table.reference_s)
        end = time.monotonic() + seconds_each * (len(networks) + 1)
        turn = 0
        while turn < TURNS or (time.monotonic() < end and not _steady(samples, table.threads)):
            turn += 1
            if dense and known:
                reference_t += _timed(calm, dense[1], inputs, dense_t)
            for name, network in networks.items():
                reference_t += _timed(calm, network, inputs, samples[name])
    factor = settled(reference_t, table.threads).median / table.reference_s
    slowed = factor > SLOWED
    if known:
        dense_factor = settled(dense_t, table.threads).median / known.latency_s
        factor = float(np.sqrt(factor * dense_factor))
    return {name: _measured(its, factor, slowed, table.threads) for name, its in samples.items()}


def _timed(
    calm: Calm, network: nn.Module, inputs: tuple[Tensor, ...], samples: list[Timing]
) -> list[Timing]:
    """Add timings of a network to ``samples``; return those of the reference around them."""
    taken, around = calm.during(lambda: timed_warm(lambda: network(*inputs), PER_TURN))
    samples.extend(taken)
    return around


def _steady(samples: Mapping[str, list[Timing]], threads: int) -> bool:
    return all(
        settled(timings, threads, FEWEST).interval <= PRECISION for timings in samples.values()
    )


def _measured(timings: list[Timing], factor: float, slowed: bool, threads: int) -> Measured:
    result = settled(timings, threads, FEWEST)
    return Measured(
        measured_latency_s=result.median / factor,
        measured_raw_s=result.median,
        clock_factor=factor,
        interval=result.interval,
        repeats=len(result.seconds),
        clock=result.clock,
        noisy=slowed or result.interval > PRECISION,
    )
