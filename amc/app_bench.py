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
from amc.assembly import OF_THE_SEARCH
from amc.config import SearchConfig
from amc.config_sections import LatencyConfig, RacingConfig
from amc.errors import InputError, SearchFailed
from amc.files import check_writable, write_json
from amc.journal import Journal
from amc.latency.device import describe_clocks, describe_device, kernel_digest, target_path
from amc.reporting import Reporter, SilentReporter
from amc.run_folder import RunFolder
from amc.scores import can_race
from amc.search_run import Found, run_search
from amc.session import Session
from amc.space import SearchSpace
from amc.task import LoadedTask, load_task
from amc.tracking import open_tracker
from amc.workers import InProcess, Workers


def bench_workers(
    configs: Sequence[SearchConfig],
    workers: int = 2,
    evaluations: int | None = None,
    plans: int = 16,
    rounds: int = 5,
    seed: int = 0,
    reporter: Reporter | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Time evaluations on 1 to ``workers`` Ray workers, which take turns.

    Returns an object a configuration, with ``amc.bench.workers``'s keys. With ``evaluations`` a
    whole ``ddpg`` search of so many is timed too, on one worker and on all. ``out`` is a folder
    for ``workers.json``.
    """
    from amc.bench import Settings
    from amc.bench import workers as bench

    if workers < 2:
        raise InputError(f"workers must be at least 2, to be held against 1, but got {workers}")
    length = 1 if evaluations is None else evaluations
    _check_counts(evaluations=length, plans=plans, rounds=rounds)
    if out is not None:
        check_writable(out / "workers.json", "--out")
    reporter = reporter or SilentReporter()
    rows = []
    for config in configs:
        session = _ddpg_session(config, length, seed, reporter)
        search = None if evaluations is None else partial(_ddpg_search, session, reporter)
        settings = Settings(workers, plans, rounds, seed)
        rows.append(bench(session, search, settings, reporter) | _agent_of(session))
    if out is not None:
        write_json(out / "workers.json", rows)
    return rows


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

    Returns an object a configuration, with ``amc.bench_evaluation.evaluation``'s keys and the
    ``protocol`` and ``walks`` of the search, which has the configuration's options of ``ddpg``. All
    runs in this process, on one thread. ``out`` is a folder for ``evaluation.json``.
    """
    from amc.bench_evaluation import Settings, evaluation

    _check_counts(evaluations=evaluations, plans=plans, rounds=rounds)
    if out is not None:
        check_writable(out / "evaluation.json", "--out")
    reporter = reporter or SilentReporter()
    rows = []
    for config in configs:
        session = _ddpg_session(config, evaluations, seed, reporter)
        search = partial(_ddpg_search, session, reporter)
        row = evaluation(session, search, Settings(plans, rounds, seed), reporter)
        rows.append(row | _agent_of(session))
    if out is not None:
        write_json(out / "evaluation.json", rows)
    return rows


def bench_criteria(
    tasks: Sequence[str] = (), reporter: Reporter | None = None, out: Path | None = None
) -> list[dict[str, Any]]:
    """Hold the criteria of single weights against each other on every layer of ``tasks``.

    Returns ``amc.bench_criteria.criteria``'s rows, of several networks where none is named. ``out``
    is a folder for ``criteria.json``.
    """
    from amc.bench_criteria import NETWORKS, criteria

    if out is not None:
        check_writable(out / "criteria.json", "--out")
    torch.set_num_threads(1)
    names = tasks or NETWORKS
    rows = [row for n in names for row in criteria(load_task(n), reporter or SilentReporter())]
    if out is not None:
        write_json(out / "criteria.json", rows)
    return rows


def _racing(session: Session) -> Session:
    """Return the session with racing on, unless it has its own, or its scores cannot race."""
    config = session.config
    if config.racing is not None or not can_race(session.task, config.score):
        return session
    return replace(session, config=config.model_copy(update={"racing": RacingConfig()}))


def evaluation_config(task: str) -> SearchConfig:
    """Return what evaluations are timed with: half of the MACs, least squares, as published."""
    return app.load_config(task, ["budget.macs=0.5", "recovery=least_squares"])


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, but got {value}")


def _ddpg_session(config: SearchConfig, evaluations: int, seed: int, reporter: Reporter) -> Session:
    """Return the session of a ``ddpg`` search of so many evaluations, with every shortcut on.

    It has ``config``'s options of ``ddpg``.
    """
    options = config.agents.get("ddpg", {})
    own: dict[str, Any] = {
        "evaluations": evaluations,
        "horizon": None,
        "agents": {"ddpg": {k: v for k, v in options.items() if k not in OF_THE_SEARCH}},
        "seeds": (seed,),
        "tracking_uri": "off",
    }
    session, _ = app.prepare(app.frozen(config.model_copy(update=own)), reporter)
    app.make_agent("ddpg", session.config.agents["ddpg"]).check(session.unevaluated_task("ddpg"))
    session = _racing(session)
    _ = session.error_curves  # prepared once a session, whoever asks first
    return session


def _agent_of(session: Session) -> dict[str, Any]:
    """Return what a row says of the agent that searched."""
    from agents.ddpg import DDPGAgent

    options = session.config.agents["ddpg"]
    return {
        "protocol": DDPGAgent(**options).protocol,
        "walks": session.config.walks,
        "agent_options": options,
    }


def _ddpg_search(session: Session, reporter: Reporter, workers: Workers | None = None) -> Found:
    """Make the session's search in a folder of its own, which is removed; by default in process."""
    with tempfile.TemporaryDirectory(prefix="amc-bench-") as parent:
        path = Path(parent) / "run"
        facts = app.journal_facts(session)
        folder = RunFolder.create(path, session.config, facts, session.table.as_json())
        tracker = open_tracker(
            path, experiment="amc", run_name="bench", warn=reporter.message, uri="off"
        )
        if workers is None:
            workers = pool = InProcess(session.job())
            pool.prepare()
        method = app.make_agent("ddpg", session.config.agents["ddpg"])
        (search,) = folder.searches
        journal = Journal(search.journal, facts[search.agent])
        found = run_search(session, search, journal, method, workers, reporter, tracker)
    if found.failure is not None:
        raise SearchFailed(found.failure)
    return found


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


def front(
    run_dirs: Sequence[Path],
    reporter: Reporter | None = None,
    out: Path | None = None,
    task: str | None = None,
    data_folder: str | None = None,
) -> dict[str, Any]:
    """Time the fine-tuned plans of one network's runs, and compare their search spaces.

    Returns ``amc.fronts.front``'s result. ``out`` is a folder for ``front.json`` and ``front.png``;
    ``task`` names the network if it is one's own.
    """
    from amc.front_plots import draw_front
    from amc.fronts import Settings
    from amc.fronts import front as fronts_of

    if out is not None:
        check_writable(out / "front.json", "--out")
    settings = Settings(task=task, data_folder=data_folder)
    result = fronts_of(run_dirs, settings, reporter or SilentReporter())
    if out is not None:
        write_json(out / "front.json", result)
        draw_front(out / "front.png", result)
    return result


def task_and_space(name: str) -> tuple[LoadedTask, SearchSpace]:
    """Return a task and its space of channels."""
    config = app.load_config(name)
    task = load_task(config.task)
    return task, app.make_space(config, task)
