"""``amc bench kernels``: every kernel against dense torch and the sparse libraries, in one run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch

from amc.bench_cases import Case, all_cases
from amc.bench_rivals import Call
from amc.errors import InputError
from amc.kernels import core
from amc.kernels.patterns import KEEP
from amc.reporting import Handle, Reporter

SHORTEST_S = 2e-4  # of one turn: calls that take less are repeated within it
TURN_S, LEAST_ROUNDS = 0.02, 5  # a call that takes longer than a turn gets the fewest rounds


def kernels(
    reporter: Reporter, rounds: int = 25, batch_size: int = 1, threads: int = 1
) -> list[dict[str, Any]]:
    """Return one object a kernel, pattern and shape, with the fields of docs/kernels.md.

    Everything of one shape takes turns in one run, in ``rounds`` rounds after a warm-up; seconds
    are medians over rounds. All run in both memory layouts, dense and sparse; the faster counts.
    ``batch_size`` is that of the layers of the zoo's networks.
    """
    if core.library() is None:
        reporter.message(
            f"no compiled kernels, the torch backend is timed: {core.why_no_library()}"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        makers = list(all_cases(batch_size, threads))
        rows = []
        with reporter.task("timing kernels", len(makers)) as bar, torch.inference_mode():
            for make in makers:
                rows += _timed(make(), rounds, threads, bar)
        return rows
    finally:
        torch.set_num_threads(before)


def _timed(case: Case, rounds: int, threads: int, bar: Handle) -> list[dict[str, Any]]:
    calls: dict[Any, Call] = {("dense", k): call for k, call in case.dense.items()}
    calls |= {("beside", k): call for k, call in case.beside.items()}
    for at, subject in enumerate(case.subjects):
        every = (*subject.calls.items(), *subject.rivals.items(), *subject.alone.items())
        calls |= {(at, k): call for k, call in every}
    peaks: list[float] = []
    if core.library() is not None:
        calls["peak"] = lambda: peaks.append(core.peak_flops())
    seconds = interleaved(calls, rounds)
    peak = float(np.median(peaks)) * threads if peaks else None
    fastest = min((seconds["dense", k], k) for k in case.dense)
    rows = []
    for at, subject in enumerate(case.subjects):
        own, layout = min((seconds[at, k], k) for k in subject.calls)
        torch_own = [seconds[at, k] for k in subject.rivals if k.startswith("torch_")]
        stored = 1 - subject.row["sparsity"]
        flops = 2 * float(np.prod(subject.row["shape"])) * stored
        row = subject.row | {
            "threads": threads,
            "backend": core.backend(),
            "layout": layout,
            "seconds": own,
            "dense_seconds": fastest[0],
            "dense_form": fastest[1],
            "speedup_vs_dense": fastest[0] / own,
            "speedup_vs_torch_sparse": min(torch_own) / own if torch_own else None,
            "fraction_of_peak": flops / own / peak if peak else None,
        }
        for k in subject.rivals:
            row[f"speedup_vs_{k}"] = seconds[at, k] / own
        alone = min((seconds[at, k] for k in subject.alone), default=own)
        for k in case.beside:
            row[f"speedup_vs_{k}"] = seconds["beside", k] / (alone if k == "dense_gemv" else own)
        if subject.alone:
            row["kernel_seconds"] = alone
        rows.append(row)
    bar.advance(1, case.name)
    return rows


def interleaved(calls: Mapping[Any, Call], rounds: int) -> dict[Any, float]:
    """Return the median seconds of each call over ``rounds`` turns, everything taking turns.

    A turn is one call that warms up and, where a call takes under 0.2 ms, as many as fill that;
    a call that takes over 20 ms gets 5 turns.
    """
    once = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        once[name] = time.perf_counter() - begin
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            if once[name] > TURN_S and turn >= LEAST_ROUNDS:
                continue
            repeats = max(1, min(20, ceil(SHORTEST_S / once[name])))
            call()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            samples[name].append((time.perf_counter() - begin) / repeats)
    return {name: float(np.median(taken)) for name, taken in samples.items()}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return geometric means over shapes, a row for each operation, pattern and sparsity."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        asked = row["sparsity"] if row["pattern"] in KEEP else round(row["sparsity"], 2)
        key = (row["set"], row["operation"], row["pattern"], asked, row.get("values", "float32"))
        groups.setdefault(key, []).append(row)
    return [
        {
            "set": key[0],
            "operation": key[1],
            "pattern": key[2],
            "sparsity": key[3],
            "values": key[4],
            "shapes": len(group),
            **{
                name: _mean([row.get(name) for row in group])
                for name in (
                    "speedup_vs_dense",
                    "speedup_vs_torch_sparse",
                    "speedup_vs_scipy",
                    "speedup_vs_onnx_runtime",
                    "speedup_vs_dense_gemv",
                    "speedup_vs_prepacked",
                    "fraction_of_peak",
                )
            },
            "least_vs_dense": min(row["speedup_vs_dense"] for row in group),
        }
        for key, group in groups.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else None


def check_rounds(rounds: int) -> None:
    """Raise ``InputError`` for a number of rounds that gives no median."""
    if rounds < LEAST_ROUNDS:
        raise InputError(f"rounds must be at least {LEAST_ROUNDS}, but got {rounds}")
