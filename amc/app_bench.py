"""The benchmarks as Python functions: what ``amc bench`` runs, put together as in ``amc.app``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from amc import app
from amc.config import LatencyConfig, RacingConfig, SearchConfig
from amc.errors import InputError
from amc.files import check_writable, write_json
from amc.latency.device import describe_clocks, describe_device, kernel_digest, target_path
from amc.reporting import Reporter, SilentReporter
from amc.run_folder import RunFolder
from amc.scores import can_race
from amc.session import Found, Session, run_search
from amc.space import SearchSpace
from amc.task import LoadedTask, load_task
from amc.tracking import open_tracker
from amc.workers import InProcess


def bench_workers(config: SearchConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    """Time one batch of 16 evaluations on 1 worker and on 2, interleaved."""
    from amc.bench import workers as bench

    session, _ = app.prepare(app.frozen(config), reporter or SilentReporter())
    return bench(session, reporter or SilentReporter())


def bench_evaluation(
    configs: Sequence[SearchConfig],
    evaluations: int = 200,
    plans: int = 4,
    rounds: int = 5,
    seed: int = 0,
    reporter: Reporter | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Time an evaluation by part, the published one beside it, and a whole ``ddpg`` search.

    Returns an object a configuration, with ``amc.bench_evaluation.evaluation``'s keys. All runs in
    this process, on one thread. ``out`` is a folder for ``evaluation.json``.
    """
    from amc.bench_evaluation import Settings, evaluation

    for name, value in (("evaluations", evaluations), ("plans", plans), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, but got {value}")
    if out is not None:
        check_writable(out / "evaluation.json", "--out")
    reporter = reporter or SilentReporter()
    rows = []
    for config in configs:
        own: dict[str, Any] = {
            "evaluations": evaluations,
            "horizon": None,
            "agents": {"ddpg": {}},
            "seeds": (seed,),
        }
        one = app.frozen(config.model_copy(update={**own, "tracking_uri": "off"}))
        session, _ = app.prepare(one, reporter)
        session = _racing(session)
        search = partial(_ddpg_search, session, reporter)
        rows.append(evaluation(session, search, Settings(plans, rounds, seed), reporter))
    if out is not None:
        write_json(out / "evaluation.json", rows)
    return rows


def _racing(session: Session) -> Session:
    """Return the session with racing on, unless it has its own, or its scores cannot race."""
    config = session.config
    if config.racing is not None or not can_race(session.task, config.score):
        return session
    return replace(session, config=config.model_copy(update={"racing": RacingConfig()}))


def evaluation_config(task: str) -> SearchConfig:
    """Return what ``bench evaluation`` times of a task: half of the MACs, as published."""
    return app.load_config(task, ["budget.macs=0.5", "recovery=least_squares"])


def _ddpg_search(session: Session, reporter: Reporter) -> Found:
    """Make the session's search in a folder of its own, which is removed."""
    with tempfile.TemporaryDirectory(prefix="amc-bench-") as parent:
        path = Path(parent) / "run"
        folder = RunFolder.create(path, session.config, session.facts, session.table.as_json())
        tracker = open_tracker(
            path, experiment="amc", run_name="bench", warn=reporter.message, uri="off"
        )
        pool = InProcess(session.job())
        pool.prepare()
        method = app.make_agent("ddpg", {})
        return run_search(session, folder.searches[0], method, pool, reporter, tracker)


def bench_kernels(
    rounds: int | None = None,
    batch_size: int = 1,
    threads: Sequence[int] = (1,),
    sets: Sequence[str] = ("table", "zoo"),
    quick: bool = False,
    reporter: Reporter | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Time every kernel against dense torch and sparse libraries; return a row a kernel and shape.

    ``amc.bench_summary.summary`` sums the rows up. ``batch_size`` is of the zoo's layers. All
    numbers of ``threads`` take turns. ``rounds`` are 15 unless given, 7 if ``quick``, which takes
    fewer shapes and patterns. ``out`` is a folder for ``kernels.json``, which holds the device and
    the summary too, and ``kernels.png``.
    """
    from amc.bench_cases import Selection
    from amc.bench_kernels import QUICK_ROUNDS, ROUNDS, check_options, kernels
    from amc.bench_plots import kernel_speedups
    from amc.bench_summary import summary

    chosen = Selection(sets, batch_size, quick)
    rounds = (QUICK_ROUNDS if quick else ROUNDS) if rounds is None else rounds
    check_options(rounds, threads, chosen)
    if out is not None:
        check_writable(out / "kernels.json", "--out")
    begin = time.perf_counter()
    rows = kernels(reporter or SilentReporter(), chosen, rounds, threads)
    if out is not None:
        about = {
            "device": describe_device(),
            "clocks": describe_clocks(),
            "versions": {name: version(name) for name in ("torch", "scipy", "onnxruntime")},
            "kernel_digest": kernel_digest(),
            "backend": rows[0]["backend"],
            "rounds": rounds,
            "batch_size": batch_size,
            "bench_s": round(time.perf_counter() - begin, 1),
        }
        write_json(out / "kernels.json", about | summary(rows) | {"rows": rows})
        title = f"Sparse kernels ({rows[0]['backend']}) against the fastest dense form"
        kernel_speedups(out / "kernels.png", rows, title)
    return rows


def bench_latency(
    tasks: Sequence[str] = (),
    table: Path | None = None,
    plans: int = 20,
    seed: int = 0,
    batch_size: int = 32,
    reporter: Reporter | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Hold predicted against measured latency on random plans, dense and sparse mixed.

    Of each task (``resnet20``, ``mobilenet`` and one made for this, unless named) with the table in
    the file ``table``, which is given what it lacks; by default this machine's cached one. Returns
    a row a plan; ``amc.bench_latency.error_table`` sums them up. ``out`` is a folder for
    ``latency.json`` and ``latency.png``.
    """
    from amc.bench_latency import NETWORKS, Settings, latency
    from amc.bench_plots import predictions

    for name, value in (("plans", plans), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, but got {value}")
    if table is not None:
        check_writable(table, "--table")
    if out is not None:
        check_writable(out / "latency.json", "--out")
    torch.set_num_threads(1)
    config = LatencyConfig(batch_size=batch_size)
    settings = Settings(task_and_space, tuple(tasks) or NETWORKS, plans, seed, config)
    path = table or target_path("auto", torch.__version__, config.threads)
    rows = latency(settings, path, reporter or SilentReporter())
    if out is not None:
        write_json(out / "latency.json", rows)
        predictions(out / "latency.png", rows, "Predicted against measured latency")
    return rows


def task_and_space(name: str) -> tuple[LoadedTask, SearchSpace]:
    """Return a task and its space of channels."""
    config = app.load_config(name)
    task = load_task(config.task)
    return task, app.make_space(config, task)
