"""The Python interface: what the command line does, as functions. The composition root.

Every function returns what its command prints with ``--json``. ``search`` and what goes with it:

    from amc import app
    config = app.load_config("experiments/quickstart.yaml", ["evaluations=20"])
    result = app.search(config, Path("runs/mine"))
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from amc import finish, planned
from amc.app_arena import arena
from amc.app_plans import apply, evaluate_plan, export, finetune, import_masks, load_packed
from amc.assembly import (
    check_agents,
    frozen,
    journal_facts,
    load_config,
    make_agent,
    make_env,
    make_space,
    prepare,
)
from amc.comparison_files import comparison
from amc.config import SearchConfig, changed
from amc.criteria.chosen import of_channels, of_weights
from amc.data import Data
from amc.drain_process import draining
from amc.driven import driven, open_journals
from amc.explanation import explanation, explanation_picture
from amc.files import check_writable
from amc.growth import grown, say_who_did_not_grow
from amc.inspection import inspection
from amc.pricing import cost_model, measure_to, patterns_of
from amc.registry import lookup
from amc.reporting import Reporter, SilentReporter
from amc.results import run_result, write_summary
from amc.run_folder import RunFolder
from amc.search_run import Found, folder_for, run_search, tracker_for
from amc.session import Session
from amc.store_uri import check_confided
from amc.task import load_task
from amc.tracking import Tracker, tracked
from amc.workers import open_workers
from amc.zoo import ZOO
from search_spaces import SEARCH_SPACES

__all__ = [
    "apply",
    "arena",
    "compare",
    "evaluate_plan",
    "explain",
    "export",
    "finetune",
    "frozen",
    "import_masks",
    "inspect",
    "journal_facts",
    "load_config",
    "load_packed",
    "make_agent",
    "make_env",
    "make_space",
    "measure",
    "prepare",
    "resume",
    "search",
    "sync",
    "train",
    "validate",
]


def search(
    config: SearchConfig, run_dir: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Search with every agent and seed of ``config``; return run folder, rows and next commands.

    The row of a search without a plan says why in ``failure``. A folder that already holds a run of
    the same configuration is gone on with.
    """
    reporter = reporter or SilentReporter()
    path = run_dir or folder_for(config)
    config = frozen(config)
    prepared = None
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        prepared = _create(path, config, reporter)
    with driven(path) as folder:
        return _run(folder.again(config), reporter, prepared)


def _create(path: Path, config: SearchConfig, reporter: Reporter) -> tuple[Session, Data | None]:
    """Make the folder of a new run; return what was prepared for that."""
    check_writable(path, "--run-dir", folder=True)
    for name in config.agents:
        make_agent(name, config.agents[name])
    session, test = prepare(config, reporter)
    check_agents(session)
    if path.is_dir():
        path.rmdir()  # empty; the new folder takes its place by rename
    RunFolder.create(path, config, journal_facts(session), session.table.as_json())
    return session, test


def resume(
    run_dir: Path,
    evaluations: int | None = None,
    reporter: Reporter | None = None,
    workers: int | None = None,
    continue_elsewhere: bool = False,
) -> dict[str, Any]:
    """Go on with the run in ``run_dir``, to more ``evaluations`` if given; return as ``search``.

    A run comes out the same on equal processors, versions and code. Where these differ it is
    refused, or with ``continue_elsewhere`` gone on with in new steps, to which the journal gives
    every answer that it has.
    """
    reporter = reporter or SilentReporter()
    with driven(run_dir) as folder:
        check_confided(folder.config.tracking_uri, f"amc resume {run_dir}")
        more = {} if evaluations is None else grown(folder.config, evaluations)
        for name, options in folder.config.agents.items():
            make_agent(name, options)
        config = changed({**folder.config.model_dump(mode="json"), **more}, workers=workers)
        result = _run(replace(folder, config=config), reporter, elsewhere=continue_elsewhere)
    if evaluations is not None:
        say_who_did_not_grow(config, evaluations, result["rows"], reporter)
    return result


def sync(
    run_dir: Path, tracking_uri: str | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Deliver to MLflow what waits of the run in ``run_dir``, finished or not; return what did.

    ``tracking_uri`` replaces the run's store for this once. See ``amc.sync`` for the keys.
    """
    from amc.sync import sync_run

    return sync_run(RunFolder.open(run_dir), tracking_uri, reporter or SilentReporter())


def _run(
    folder: RunFolder,
    reporter: Reporter,
    prepared: tuple[Session, Data | None] | None = None,
    elsewhere: bool = False,
) -> dict[str, Any]:
    """Make every search of the run, finish their winners together, and write the summary.

    The run is ``driven`` by the caller. A search that finds no plan, or whose evaluations fail
    alike, is a row too, and the others are finished.
    """
    reporter.hint(f"amc resume {folder.path}")
    with contextlib.ExitStack() as stack:
        session, test = prepared or _prepare_again(folder, reporter)
        journals = open_journals(folder, journal_facts(session), reporter, elsewhere)
        folder.save()
        drain = stack.enter_context(draining(folder.path, folder.config.tracking_uri, reporter))
        job, count = session.job(), session.config.workers
        workers = stack.enter_context(open_workers(job, count, reporter, session.limits()))
        trackers: list[Tracker] = []
        found: list[Found] = []
        for one, journal in zip(folder.searches, journals, strict=True):
            tracker = tracker_for(folder, one, journal, session.budget, reporter)
            trackers.append(stack.enter_context(tracked(tracker)))
            method = make_agent(one.agent, folder.config.agents[one.agent])
            found.append(run_search(session, one, journal, method, workers, reporter, tracker))
        with drain.quiet():
            rows = finish.finish_run(session, found, test, workers, reporter)
        write_summary(folder.path, rows)
        for tracker, one_found, row in zip(trackers, found, rows, strict=True):
            finish.track(tracker, row, one_found.search.folder)
    return run_result(folder.path, folder.config.task, rows)


def _prepare_again(folder: RunFolder, reporter: Reporter) -> tuple[Session, Data | None]:
    """Return what ``prepare`` gives, priced by the table that the run began with."""
    latency = folder.config.latency.model_copy(update={"target": str(folder.searches[0].target)})
    own = folder.config.model_copy(update={"latency": latency})
    session, test = prepare(own, reporter)
    check_agents(session)
    return session, test


def inspect(config: SearchConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    """Return sites, coupling, dense costs and the smallest reachable fraction of every budget."""
    torch.set_num_threads(1)
    task = load_task(config.task, config.data, config.data_folder)
    space = make_space(config, task)
    model = cost_model(task, space, config.latency, reporter or SilentReporter())
    return inspection(task, space, model, config.latency.batch_size)


def explain(
    config: SearchConfig, run_dir: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Return, without a search, what each site loses and saves at each width, and the budget.

    ``amc.explanation`` has the keys. The curves are drawn beside the run folder that a search of
    ``run_dir`` would make, in ``RUN_DIR-explain.png``; by default ``runs/TASK-explain.png``.
    """
    reporter = reporter or SilentReporter()
    picture = explanation_picture(run_dir, config.task)
    check_writable(picture, "--run-dir")
    torch.set_num_threads(1)
    task = load_task(config.task, config.data, config.data_folder)
    space = make_space(config, task)
    model = cost_model(task, space, config.latency, reporter)
    return explanation(config, task, space, model, reporter, picture)


def compare(
    run_dirs: list[Path],
    html: Path | None = None,
    curves: Path | None = None,
    paired: str | None = None,
) -> dict[str, Any]:
    """Return the rows of several finished runs together, each with its ``run_dir``.

    ``html`` is given a page of tables and pictures, ``curves`` a PNG of the learning curves; with
    either the answer has the ``curves`` themselves too. ``paired`` names an agent: under that key
    each run's plans, fine-tuned, are held against that agent's on the same test images, with
    intervals.
    """
    answer = comparison(run_dirs, html, curves)
    if paired is None:
        return answer
    from amc.paired import paired_rows

    return {**answer, "paired": [r for path in run_dirs for r in paired_rows(path, paired)]}


def validate(path: Path) -> dict[str, Any]:
    """Check a plan (``.json``) or a configuration (``.yaml``); return what it is.

    Neither network nor data is loaded, so a task's own factory is not called.
    """
    if path.suffix in {".yaml", ".yml"}:
        config = load_config(str(path))
        if ":" not in config.task:
            lookup(ZOO, config.task, "task")
        lookup(SEARCH_SPACES, config.space, "space")
        of_channels(config.sites.criterion)
        of_weights(config.sites.weight_criterion)
        for name, options in config.agents.items():
            make_agent(name, options)
        return {"file": str(path), "valid": True, "kind": "configuration", "digest": config.digest}
    return planned.validated(path)


def measure(
    config: SearchConfig,
    out: Path | None = None,
    reporter: Reporter | None = None,
    patterns: str = "dense",
    allow_noisy: bool = False,
) -> dict[str, Any]:
    """Measure the latency table of a task on this machine, into the cache or ``out``.

    ``patterns`` are the sparse ones to measure too, such as ``2:4,csr``, or ``all``. Raises
    ``InputError`` where too many points stay noisy, unless ``allow_noisy``.
    """
    if out is not None:
        check_writable(out, "--out")
    sparse = patterns_of(patterns)
    torch.set_num_threads(1)
    task = load_task(config.task, config.data, config.data_folder)
    space = make_space(config, task)
    latency = config.latency.model_copy(update={"target": "auto"})
    return measure_to(task, space, latency, out, reporter or SilentReporter(), sparse, allow_noisy)


def train(recipe: Path, out: Path | None, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train a zoo network from a recipe; return what it reached."""
    from amc.recipe import read_recipe, train_with_bar

    return train_with_bar(read_recipe(recipe), out, reporter or SilentReporter())
