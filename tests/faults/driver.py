"""A search in a process of its own, which a test kills: forked from one that has all imports."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from agents import AGENTS
from amc import app, calibration, cli, faults, finish, plots, pricing, timing
from amc.config import parse_config
from amc.evaluation import Evaluation, Request
from amc.evaluators import ScoringEvaluator
from amc.journal import scan
from amc.latency import calm, session
from tests.faults.disk import fill_at

# What a search imports on use, which takes seconds in every life.
LOADED = [
    *(entry.partition(":")[0] for entry in AGENTS.values()),
    *("amc.zoo.digits", "amc.zoo.fashion", "amc.plots", "torch._dynamo"),
]
# A batch that begins, each of its evaluations, and one that is made again for its weights.
BATCH, LIVE, AGAIN = "b", ".", "r"
LOOK_S = 0.02


@dataclass(frozen=True)
class Trial:
    """One life of a driver: where it searches, and what is counted to ``log``."""

    config: dict[str, Any]
    run_dir: Path
    log: Path
    again: int = 0  # how often an undisturbed search needs weights that it had let go
    measured: bool = True  # whether a run ends with the latency of its winners

    @property
    def made_again(self) -> int:
        """How often the latest life made an evaluation again."""
        return self.log.read_text().count(AGAIN)


def server() -> ForkServerContext:
    """Return processes that start with this module's imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *LOADED])
    return context


def live(trial: Trial, crash_at: str | None) -> None:
    """Begin the search or go on with it, with what it evaluates counted as it begins."""
    sys.stderr = sys.stdout = trial.log.with_suffix(".out").open("a")
    _time_at_once()
    if not trial.measured:
        finish._measure = lambda *_: {}
    if crash_at is not None:
        os.environ[faults.VARIABLE] = crash_at
    _count(trial.log)
    if (trial.run_dir / "config.yaml").is_file():
        app.resume(trial.run_dir)
    else:
        app.search(parse_config(trial.config), trial.run_dir)


def command(
    arguments: list[str],
    told: Path,
    full: tuple[Path, str] | None = None,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """Give the command line ``arguments``; return its exit code, and what it says in ``told``.

    ``full`` is a disk and the file at which it becomes full, as of ``fill_at``. The process is
    killed once ``until`` comes true.
    """
    process = server().Process(target=_command, args=(arguments, told, full))
    process.start()
    try:
        while process.is_alive() and not until():
            process.join(LOOK_S)
    finally:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _command(arguments: list[str], told: Path, full: tuple[Path, str] | None) -> None:
    sys.stderr = sys.stdout = told.open("w")
    sys.argv = ["amc", *arguments]
    os.environ["COLUMNS"] = "1000"
    _time_at_once()
    if full is not None:
        fill_at(*full, pytest.MonkeyPatch())
    cli.main()


def _time_at_once() -> None:
    """How long things take, and how sharp pictures are, matters to no test here."""
    for module, name, value in (
        (calm, "LOOK_S", 0.0),
        (calm, "PATIENCE", 0.0),
        (session, "PATIENCE_S", 0.0),
        (timing, "PATIENCE_S", 0.0),
        (timing, "TURNS", 3),
        (timing, "PRECISION", float("inf")),
        (pricing, "PATIENCE_S", 0.0),
        (plots, "DPI", 20),
        (calibration, "PROCESSES", {False: 0, True: 0}),
    ):
        setattr(module, name, value)


def _count(log: Path) -> None:
    """Note every batch that is evaluated, and every single evaluation that is made again."""
    evaluate, rerun = ScoringEvaluator.evaluate, ScoringEvaluator.rerun

    def note(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    def counted(self: ScoringEvaluator, requests: Sequence[Request]) -> list[Evaluation]:
        note(BATCH + LIVE * len(requests))
        return evaluate(self, requests)

    def counted_again(self: ScoringEvaluator, request: Request) -> Any:
        note(AGAIN)
        return rerun(self, request)

    ScoringEvaluator.evaluate = counted  # type: ignore[method-assign]
    ScoringEvaluator.rerun = counted_again  # type: ignore[method-assign]


def kill_after(trial: Trial, seconds: float | None, crash_at: str | None = None) -> bool:
    """Let a driver live for so long, or to a crash point, or to its end; return if it was killed.

    Checks that all it had begun is on record afterwards, but for the one batch in flight.
    """
    before = _recorded(trial.run_dir)
    trial.log.write_text("")
    process = server().Process(target=live, args=(trial, crash_at))
    process.start()
    process.join(seconds)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    killed = process.exitcode == -signal.SIGKILL
    told = trial.log.with_suffix(".out")
    assert killed or process.exitcode == 0, told.read_text()[-3000:]
    lost = trial.log.read_text().count(LIVE) - (_recorded(trial.run_dir) - before)
    in_flight = trial.log.read_text().rpartition(BATCH)[2].count(LIVE) if killed else 0
    assert lost in {0, in_flight}, f"{lost} evaluations lost, {in_flight} were in flight"
    assert trial.made_again <= trial.again, "weights were lost"
    return killed


def _recorded(run_dir: Path) -> int:
    """Return how many evaluations of a run that were made are on record."""
    return sum(
        not evaluation.cached
        for journal in run_dir.glob("*/journal.jsonl")
        for evaluation in scan(journal).records
    )


def moments(seed: str, count: int, longest_s: float) -> list[float]:
    """Return ``count`` times in seconds, drawn from ``[0, longest_s]``."""
    draw = random.Random(seed)
    return [draw.uniform(0.0, longest_s) for _ in range(count)]
