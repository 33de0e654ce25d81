"""``amc bench kernels``: every kernel against dense torch and the sparse libraries, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amc.bench_cases import SETS, Case, Maker, Selection, Subject, all_cases
from amc.bench_rivals import Call
from amc.bench_roofline import STREAMS, flops_of, roofline, stream_calls
from amc.errors import InputError
from amc.kernels import core
from amc.registry import nearest
from amc.reporting import Reporter

ROUNDS, QUICK_ROUNDS = 15, 7
LEAST_ROUNDS = 5
SHORTEST_S = 2e-4  # of one turn: calls that take less are repeated within it
WARM_S = 2e-3  # calls that take longer need no other one to warm up
LONG_S, LONG_ROUNDS = 0.02, 3  # calls that take longer get fewer turns

Samples = Mapping[Any, NDArray[np.float64]]  # seconds of one call in each round


def kernels(
    reporter: Reporter,
    chosen: Selection,
    rounds: int = ROUNDS,
    threads: Sequence[int] = (1,),
) -> list[dict[str, Any]]:
    """Return one object a kernel, pattern, shape and number of threads, as docs/kernels.md says.

    Everything of one shape, with every number of threads, takes turns in ``rounds`` rounds. Seconds
    are medians over rounds, ``spread`` their interquartile range over the median. Speed-ups are
    medians over rounds of the ratio within a round: what changes from round to round cancels. All
    run in both memory layouts, dense and sparse; the faster counts.
    """
    if core.library() is None:
        reporter.message(
            f"no compiled kernels, the torch backend is timed: {core.why_no_library()}"
        )
    makers = all_cases(chosen)
    rows = []
    bar = reporter.task("timing kernels", len(makers))
    with bar, _threads_kept(), torch.inference_mode():
        for make in makers:
            name, found = _timed(make, rounds, threads)
            rows += found
            bar.advance(1, name)
    return rows


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(make: Maker, rounds: int, threads: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
    """Return a case's name and its rows, of every number of threads."""
    cases: dict[int, Case] = {}
    for count in threads:
        torch.set_num_threads(count)
        cases[count] = make()
    calls = {
        (count, *key): call for count, case in cases.items() for key, call in _calls(case).items()
    }
    peaks: list[float] = []
    if core.library() is not None:
        calls[1, "peak"] = lambda: peaks.append(core.peak_flops())
    samples = interleaved(calls, rounds, lambda key: _set_threads(key[0]))
    peak = float(np.median(peaks)) if peaks else None
    rows: list[dict[str, Any]] = []
    for count, case in cases.items():
        own = {key[1:]: taken for key, taken in samples.items() if key[0] == count}
        one = {key[1:]: taken for key, taken in samples.items() if key[0] == 1}
        for at, subject in enumerate(case.subjects):
            row = _row_of(case, at, own) | {"threads": count, "backend": core.backend()}
            row |= _fractions(subject, at, own, row, peak and peak * count)
            if count != 1 and 1 in cases:
                _, alone = _fastest(one, at, subject.calls)
                row["speedup_vs_one_thread"] = _ratio(alone, own[at, row["layout"]])
            rows.append(row)
    return cases[threads[0]].name, rows


def _set_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _calls(case: Case) -> dict[tuple[Any, ...], Call]:
    """Return everything that a case times, by what it is and its name."""
    calls: dict[tuple[Any, ...], Call] = {("dense", k): call for k, call in case.dense.items()}
    calls |= {("beside", k): call for k, call in case.beside.items()}
    for at, subject in enumerate(case.subjects):
        stream = {} if subject.size_bytes is None else stream_calls(subject.size_bytes)
        for kind in (subject.calls, subject.alone, stream):
            calls |= {(at, k): call for k, call in kind.items()}
        calls |= {(subject.zeros, k): call for k, call in subject.rivals.items()}
    return calls


def _row_of(case: Case, at: int, samples: Samples) -> dict[str, Any]:
    """Return what a subject is, its seconds and its speed-ups."""
    subject = case.subjects[at]
    layout, own = _fastest(samples, at, subject.calls)
    form, dense = _fastest(samples, "dense", case.dense)
    torch_own = [k for k in subject.rivals if k.startswith("torch_")]
    row = subject.row | {
        "layout": layout,
        "seconds": float(np.median(own)),
        "spread": _spread(own),
        "dense_form": form,
        "dense_seconds": float(np.median(dense)),
        "dense_spread": _spread(dense),
        "speedup_vs_dense": _ratio(dense, own),
        "speedup_vs_torch_sparse": _ratio(_fastest(samples, subject.zeros, torch_own)[1], own)
        if torch_own
        else None,
    }
    for k in subject.rivals:
        row[f"speedup_vs_{k}"] = _ratio(samples[subject.zeros, k], own)
    for k in case.beside:
        mine = _fastest(samples, at, subject.alone)[1] if k == "dense_gemv" else own
        row[f"speedup_vs_{k}"] = _ratio(samples["beside", k], mine)
    if subject.alone:
        row["kernel_seconds"] = float(np.median(_fastest(samples, at, subject.alone)[1]))
    return row


def _fractions(
    subject: Subject, at: int, samples: Samples, row: Mapping[str, Any], peak: float | None
) -> dict[str, Any]:
    """Return which part of the peak and of its own roofline a kernel reaches; ``None`` unknown.

    The roofline is held against the compiled kernel alone where that was timed.
    """
    if peak is None:
        return {"fraction_of_peak": None, "fraction_of_roofline": None, "limited_by": None}
    size, bandwidth = subject.size_bytes or 0, None
    if subject.size_bytes is not None:
        _, stream = _fastest(samples, at, STREAMS)
        bandwidth = size / float(np.median(stream))
    bound = roofline(row, peak, size, bandwidth)
    return {
        "fraction_of_peak": flops_of(row) / row["seconds"] / peak,
        "fraction_of_roofline": bound.seconds / row.get("kernel_seconds", row["seconds"]),
        "limited_by": bound.limit,
    }


def _fastest(samples: Samples, kind: Any, names: Any) -> tuple[str, NDArray[np.float64]]:
    name = min(names, key=lambda k: float(np.median(samples[kind, k])))
    return name, samples[kind, name]


def _ratio(slow: NDArray[np.float64], fast: NDArray[np.float64]) -> float:
    rounds = min(len(slow), len(fast))
    return float(np.median(slow[:rounds] / fast[:rounds]))


def _spread(seconds: NDArray[np.float64]) -> float:
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return float((high - low) / middle)


def interleaved(
    calls: Mapping[Any, Call], rounds: int, before: Callable[[Any], None] = lambda _: None
) -> dict[Any, NDArray[np.float64]]:
    """Return the seconds of each call in each of ``rounds`` rounds, everything taking turns.

    A turn is a call that warms up, unless one takes over 2 ms, then one, or as many as fill 0.2 ms.
    A call that takes over 20 ms gets 3 turns, in the first rounds. ``before`` is told whose turn it
    is.
    """
    once = {}
    for name, call in calls.items():
        before(name)
        call()
        begin = time.perf_counter()
        call()
        once[name] = time.perf_counter() - begin
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            if once[name] > LONG_S and turn >= LONG_ROUNDS:
                continue
            repeats = max(1, min(20, ceil(SHORTEST_S / once[name])))
            before(name)
            if once[name] < WARM_S:
                call()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            samples[name].append((time.perf_counter() - begin) / repeats)
    return {name: np.array(taken) for name, taken in samples.items()}


def check_options(rounds: int, threads: Sequence[int], chosen: Selection) -> None:
    """Raise ``InputError`` for options that give no median, or nothing to time."""
    if rounds < LEAST_ROUNDS:
        raise InputError(f"rounds must be at least {LEAST_ROUNDS}, but got {rounds}")
    for name, values in (("batch_size", [chosen.batch_size]), ("threads", threads)):
        if not values or min(values) < 1:
            raise InputError(f"{name} must be at least 1, but got {', '.join(map(str, values))}")
    for name in chosen.sets:
        if name not in SETS:
            hint = nearest(name, list(SETS)) or f"; known: {', '.join(SETS)}"
            raise InputError(f"set {name!r} is unknown{hint}")
