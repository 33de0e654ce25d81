"""Filling a ``LatencyTable`` with what a search can ask for, by ``amc.latency.session``."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from amc.errors import InputError
from amc.latency.calls import counted
from amc.latency.checkpoint import Checkpoint, Turn
from amc.latency.clock import Settled, settled
from amc.latency.operation import described
from amc.latency.overhead import Whole, chain_overhead, fitted_overhead
from amc.latency.provenance import empty_table, facts_of, of_these_backends, with_backends
from amc.latency.sampling import KernelRequest, Sampled, refine, sample
from amc.latency.session import (
    EVICTED_BYTES,
    RUNS,
    Point,
    Progress,
    Session,
    WholeNetwork,
    device_settings,
)
from amc.latency.table import NOISY_SHARE, LatencyTable, NetworkTime, missing
from amc.latency.times import KernelTimes
from amc.latency.trace import trace_ops

__all__ = ["KernelRequest", "Networks", "WholeNetwork", "measure_table"]

PASSES, REPEATS = 2, 6  # a machine drifts: the same point is timed at different times
MORE_REPEATS = 8  # of every noisy point, in each round
ROUNDS = 3
# A median is noisy where half its 95% interval is above all three: a share of itself, one of the
# whole dense network, and what timing a call is itself uncertain by. Fifty operations that are each
# wrong by a thousandth of a network make its sum wrong by less than a hundredth.
UNCERTAIN, NEGLIGIBLE, NEGLIGIBLE_S = 0.05, 0.001, 2e-6
DENSE_REPEATS = 40
COMPRESSED_REPEATS = 16

PROTOCOL = {
    "timing": f"calls take turns in the network's order, {PASSES} times {REPEATS} a point, after "
    f"one that warms up; noisy points {MORE_REPEATS} more in each of {ROUNDS} rounds",
    "inputs": "written anew just before each call, as the operation before does in a network, in "
    "memory that the operations of a turn share",
    "calls": "what whole networks, the dense one and compressed ones of random plans, take beyond "
    "the sum of their operations, divided among their calls; timed first, and where a table was "
    "asked for by name in several fresh processes, half of them before the kernels, half after",
    "weights": "as warm or cold as the other operations of a turn leave them",
    "clock": "times are in units of a fixed convolution timed in the same turn",
    "interrupted": "timings during which the thread was off the processor, or around which the "
    "fixed convolution was slow, count only where there are too few others",
    "noisy": f"half of a median's 95% interval above {UNCERTAIN:.0%} of itself and "
    f"{NEGLIGIBLE:.1%} of the dense network's time",
    "warm_s": "median of the largest point called at once again",
    "cold_s": f"median of the same after {EVICTED_BYTES >> 20} MiB of other data were read",
}


@dataclass(frozen=True)
class Networks:
    """Whole networks that are timed with kernels.

    ``dense`` ones are kept in the table, the second clock. ``compressed`` makes others of the same
    kernels: with the dense ones they tell what calling costs inside a network. Each function of
    ``elsewhere`` has all of them timed in another process, which waits for a core as fast as the
    ``Session``'s ``goal_s`` that it is given; without any, this process times them.
    """

    dense: Sequence[WholeNetwork] = ()
    compressed: Callable[[], Sequence[WholeNetwork]] = tuple
    elsewhere: Sequence[Callable[[float | None], Turn]] = ()


def measure_table(
    requests: Sequence[KernelRequest],
    threads: int,
    table: LatencyTable | None = None,
    networks: Networks | None = None,
    *,
    progress: Progress = lambda done, total, what: None,
    checkpoint: Path | None = None,
    allow_noisy: bool = True,
    patience_s: float | None = None,
) -> LatencyTable:
    """Return ``table`` (or a new one) with every request measured that it lacks.

    ``patience_s`` is the session's. ``progress(done, total, what)`` is called as it goes. New times
    are brought to the clock of the table's first session by the reference operation. What is timed
    is kept in the file ``checkpoint``, from which the same call goes on; the caller removes it once
    the table is written. Raises ``InputError`` where the table is noisy though not ``allow_noisy``.
    """
    table = table and of_these_backends(table, requests)
    wanted = [
        replace(r, reachable=_union(r, table))
        for r in requests
        if table is None or missing(table, r.template.key, r.reachable)
    ]
    networks = networks or Networks()
    fresh = [d for d in networks.dense if table is None or d.key not in table.networks]
    if table is not None and not wanted and not fresh:
        return table
    others = networks.compressed()
    record = Checkpoint(checkpoint, facts_of(wanted, [*fresh, *others], threads, table))
    wanted.sort(key=lambda request: request.positions[0])
    places = sorted({(p, r.template.name) for r in wanted for p in r.positions})
    session = Session(
        [name for _, name in places],
        threads,
        progress,
        record,
        patience_s,
        table.reference_s if table else None,
    )
    with device_settings(threads):
        # First, as a deployed network would run: a process that has timed thousands of kernels runs
        # whole networks up to 10% slower. Half of the other processes come last, as a machine that
        # others share drifts in minutes.
        half = len(networks.elsewhere) // 2
        for its in networks.elsewhere[half:]:
            session.add_turn(its)
        if not networks.elsewhere:
            _time_networks(session, fresh, DENSE_REPEATS, "timing the network")
            _time_networks(session, others, COMPRESSED_REPEATS, "timing compressed networks")
        negligible_s = _negligible_s(session, table)
        sampled = _time_kernels(session, wanted, negligible_s, allow_noisy)
        for its in networks.elsewhere[:half]:
            session.add_turn(its)
        alone = with_backends(table or empty_table(threads, session, PROTOCOL), wanted)
        alone = alone.merged(
            {i.request.template.key: _times(session, i, alone, negligible_s) for i in sampled},
            {d.key: _network_time(session, d, alone) for d in fresh},
        )
        measured = _with_overhead(alone, wanted, session, [*fresh, *others])
    if measured.is_noisy and not allow_noisy:
        record.refuse()
        raise InputError(_too_noisy(measured, checkpoint))
    return measured


def _time_kernels(
    session: Session, wanted: Sequence[KernelRequest], negligible_s: float, allow_noisy: bool
) -> list[Sampled]:
    """Time the kernels where they are wanted, between where that helps, and noisy ones again."""
    sampled = sample(session, wanted)
    points = [point for its in sampled for point in its.points]
    _time(session, points)
    added = refine(session, sampled)
    _time(session, added)
    rounds = ROUNDS * max(1, session.checkpoint.refusals + (not allow_noisy))
    _time_noisy(session, points + added, negligible_s, rounds)
    return sampled


def _time(session: Session, points: Sequence[Point]) -> None:
    for _ in range(PASSES):
        session.time(points, REPEATS, "timing kernels")


def _time_networks(
    session: Session, networks: Sequence[WholeNetwork], repeats: int, what: str
) -> None:
    """Time whole networks, taking turns, until each has ``repeats`` timings."""
    turn = 0
    while left := [i for i in networks if len(session.networks.get(i.key, ())) < repeats]:
        session.time_turn([], 0, left)
        turn += 1
        fewest = min(len(session.networks[its.key]) for its in left)
        session.progress(turn, turn + max(0, -(-(repeats - fewest) // RUNS)), what)


def _negligible_s(session: Session, table: LatencyTable | None) -> float:
    """Return the doubt about one operation that no whole network would show, seconds."""
    unit = float(np.median(session.reference_s)) if session.reference_s else 0.0
    timed = [settled(its, session.threads).median * unit for its in session.networks.values()]
    known = [network.latency_s for network in table.networks.values()] if table else []
    return max(NEGLIGIBLE_S, NEGLIGIBLE * min([*timed, *known], default=0.0))


def _time_noisy(
    session: Session, points: Sequence[Point], negligible_s: float, rounds: int
) -> None:
    """Time noisy points again, for at most so many rounds."""
    for turn in range(rounds):
        noisy = [p for p in points if _is_noisy(session, session.settled(p), negligible_s)]
        if not noisy:
            return
        session.time(noisy, MORE_REPEATS, f"timing noisy kernels again, round {turn + 1}")


def _is_noisy(session: Session, point: Settled, negligible_s: float) -> bool:
    seconds = point.interval * point.median * float(np.median(session.reference_s))
    return point.interval > UNCERTAIN and seconds > negligible_s


def _too_noisy(table: LatencyTable, checkpoint: Path | None) -> str:
    points = sum(times.seconds.size for times in table.kernels.values())
    again = f" (it goes on from {checkpoint})" if checkpoint else ""
    return (
        f"{table.noisy_points} of {points} points stayed noisy after {ROUNDS} rounds, more than "
        f"{NOISY_SHARE:.0%}: the medians are uncertain by over {UNCERTAIN:.0%}, so no table was "
        f"written; end other programs and run again{again}, or accept it with --allow-noisy, which "
        "writes it marked noisy"
    )


def _with_overhead(
    table: LatencyTable,
    wanted: Sequence[KernelRequest],
    session: Session,
    networks: Sequence[WholeNetwork],
) -> LatencyTable:
    """Return ``table`` with what calling costs, added to the times of the kernels ``wanted``."""
    kinds = {"layer", "function", *(r.template.call_kind for r in wanted)}
    lacking = sorted(kinds - set(table.call_overhead_s))
    chains = chain_overhead(table.threads, table.reference_s, lacking)
    fresh = {r.template.key for r in wanted}
    whole = [_whole(its, table, session, fresh) for its in networks]
    known = [its for its in whole if its is not None]
    overhead = fitted_overhead({**table.call_overhead_s, **chains}, known)
    called = {
        r.template.key: table.kernels[r.template.key].called(overhead[r.template.call_kind])
        for r in wanted
    }
    return replace(table.merged(called, {}), call_overhead_s=overhead)


def _whole(
    its: WholeNetwork, table: LatencyTable, session: Session, alone: Set[str]
) -> Whole | None:
    """Return what a network's time says about calls; ``None`` where ``table`` lacks its kernels.

    Of the kernels in ``alone`` the table has the time without the call.
    """
    ops = trace_ops(its.network, its.inputs)
    if any(op.kernel not in table.kernels for op in ops):
        return None
    measured = settled(session.networks[its.key], session.threads).median * table.reference_s
    kinds = counted(op.template.call_kind for op in ops)
    kinds.subtract(op.template.call_kind for op in ops if op.kernel not in alone)
    return Whole(measured, sum(table.latency(op) for op in ops), kinds)


def _union(request: KernelRequest, table: LatencyTable | None) -> tuple[tuple[int, ...], ...]:
    """Return the widths to measure: those asked for, and those of the grid that is replaced."""
    known = table.kernels.get(request.template.key) if table else None
    if known is None:
        return request.reachable
    return tuple(
        tuple(sorted({*widths, *marks}))
        for widths, marks in zip(request.reachable, known.grid, strict=True)
    )


def _times(session: Session, its: Sampled, table: LatencyTable, negligible_s: float) -> KernelTimes:
    template = its.request.template
    shape = tuple(len(marks) for marks in its.grid)
    points = [session.settled((template, dims)) for dims in product(*its.grid)]
    medians = np.array([point.median for point in points]).reshape(shape) * table.reference_s
    largest = tuple(marks[-1] for marks in its.grid)
    warm, cold = session.caches((template, largest))
    errors = its.errors(session)
    return KernelTimes(
        axes=template.axes,
        grid=its.grid,
        seconds=medians,
        spread=np.array([point.spread for point in points]).reshape(shape),
        repeats=min(len(point.seconds) for point in points),
        noisy=tuple(i for i, point in enumerate(points) if _is_noisy(session, point, negligible_s)),
        what=described(template),
        is_monotone=its.request.is_monotone,
        caches={
            "widths": list(largest),
            "warm_s": warm * table.reference_s,
            "cold_s": cold * table.reference_s,
        },
        fit_error=float(errors.max()) if errors.size else None,
    )


def _network_time(session: Session, dense: WholeNetwork, table: LatencyTable) -> NetworkTime:
    timings = settled(session.networks[dense.key], session.threads)
    return NetworkTime(timings.median * table.reference_s, timings.spread, len(timings.seconds))
