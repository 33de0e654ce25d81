"""The Python interface: what the command line does, as functions. The composition root.

Every function returns what its command prints with ``--json``. ``search`` and what goes with it:

    from amc import app
    config = app.load_config("experiments/quickstart.yaml", ["evaluations=20"])
    result = app.search(config, Path("runs/mine"))
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc import applied, finish, planned
from amc.assembly import (
    channel_importance,
    check_agents,
    frozen,
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
from amc.errors import InputError
from amc.explanation import explanation, explanation_picture
from amc.files import check_writable
from amc.growth import grown, say_who_did_not_grow
from amc.inspection import inspection
from amc.journal import Journal
from amc.plan_file import read_plan
from amc.pricing import cost_model, measure_to, patterns_of
from amc.registry import lookup
from amc.reporting import Reporter, SilentReporter
from amc.results import run_result, write_summary
from amc.run_folder import RunFolder, write_config
from amc.search_run import Found, folder_for, run_search, tracked_params
from amc.session import Session
from amc.task import load_task
from amc.tracking import Tracker, open_tracker, tracked
from amc.workers import open_workers
from amc.zoo import ZOO
from search_spaces import SEARCH_SPACES

__all__ = [
    "apply",
    "compare",
    "evaluate_plan",
    "explain",
    "export",
    "finetune",
    "frozen",
    "import_masks",
    "inspect",
    "load_config",
    "make_agent",
    "make_env",
    "make_space",
    "measure",
    "prepare",
    "resume",
    "search",
    "train",
    "validate",
]


def search(
    config: SearchConfig, run_dir: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Search with every agent and seed of ``config``; return run folder, rows and next commands.

    The row of a search that found no plan within the budget says so in ``failure``. A folder that
    already holds a run of the same configuration is gone on with.
    """
    reporter = reporter or SilentReporter()
    path = run_dir or folder_for(config)
    config = frozen(config)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        return _run(RunFolder.open(path).again(config), reporter)
    check_writable(path, "--run-dir", folder=True)
    for name in config.agents:
        make_agent(name, config.agents[name])
    session, test = prepare(config, reporter)
    check_agents(session)
    if path.is_dir():
        path.rmdir()  # empty; the new folder takes its place by rename
    folder = RunFolder.create(path, config, session.facts, session.table.as_json())
    return _run(folder, reporter, session, test)


def resume(
    run_dir: Path,
    evaluations: int | None = None,
    reporter: Reporter | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Go on with the run in ``run_dir``, to more ``evaluations`` if given; return as ``search``."""
    folder = RunFolder.open(run_dir)
    if evaluations is not None and evaluations < folder.config.evaluations:
        raise InputError(
            f"evaluations {evaluations} is below the run's {folder.config.evaluations}; a run "
            "can only grow"
        )
    reporter = reporter or SilentReporter()
    for name, options in folder.config.agents.items():
        make_agent(name, options)
    more = {} if evaluations is None else grown(folder.config, evaluations)
    config = changed({**folder.config.model_dump(mode="json"), **more}, workers=workers)
    result = _run(replace(folder, config=config), reporter)
    if evaluations is not None:
        say_who_did_not_grow(config, evaluations, result["rows"], reporter)
    return result


def _run(
    folder: RunFolder,
    reporter: Reporter,
    session: Session | None = None,
    test: Data | None = None,
) -> dict[str, Any]:
    """Make every search of the run, finish their winners together, and write the summary.

    A search that finds no plan within the budget is a row too, and the others are finished.
    """
    reporter.hint(f"amc resume {folder.path}")
    if session is None:
        latency = folder.config.latency.model_copy(
            update={"target": str(folder.searches[0].target)}
        )
        own = folder.config.model_copy(update={"latency": latency})
        session, test = prepare(own, reporter)
        check_agents(session)
        for one in folder.searches:
            Journal(one.journal, session.facts)  # refuses another run's before anything is written
        write_config(folder.path / "config.yaml", folder.config)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(open_workers(session.job(), session.config.workers, reporter))
        trackers: list[Tracker] = []
        found: list[Found] = []
        for one in folder.searches:
            tracker = open_tracker(
                folder.path,
                experiment=folder.config.experiment,
                run_name=f"{folder.path.name}/{one.name}",
                warn=reporter.message,
                uri=folder.config.tracking_uri,
            )
            trackers.append(stack.enter_context(tracked(tracker)))
            tracker.start(
                tracked_params(session, one), {"agent": one.agent, "task": session.task.name}
            )
            method = make_agent(one.agent, folder.config.agents[one.agent])
            found.append(run_search(session, one, method, workers, reporter, tracker))
        rows = finish.finish_run(session, found, test, workers, reporter)
        write_summary(folder.path, rows)
        for tracker, one_found, row in zip(trackers, found, rows, strict=True):
            finish.track(tracker, row, one_found.search.folder)
    return run_result(folder.path, folder.config.task, rows)


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


def import_masks(
    state: Path, source: str, out: Path, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Write the plan of a network that ``torch.nn.utils.prune`` masked, and its weights beside it.

    ``state`` is the file of its ``state_dict``; ``source`` names the unpruned network, as a task or
    a configuration, whose latency, data and images count. See ``amc.imported``.
    """
    from amc.imported import import_masks as imported
    from search_spaces.patterns import PatternSpace

    torch.set_num_threads(1)
    config = load_config(source, ["recovery=none", "finetune_steps=0", "budget.params=1"])
    task = load_task(config.task, config.data, config.data_folder)
    images = config.search_images or len(task.search)
    return imported(
        config,
        replace(task, search=task.search[:images]),
        state,
        out,
        lambda task, rungs: PatternSpace.with_rungs(task.network, task.inputs, rungs),
        reporter or SilentReporter(),
    )


def export(run_dir: Path, agent: str | None, seed: int | None, out: Path) -> dict[str, Any]:
    """Copy a run's plan, and the weights that it names, to ``out``; by default the best agent's."""
    return planned.export(RunFolder.open(run_dir).plan(agent, seed), out)


def apply(
    plan: Path,
    out: Path,
    from_original: bool = False,
    task: str | None = None,
    finetuned: bool = False,
    data_folder: str | None = None,
    unpacked: bool = False,
    masks: bool = False,
) -> dict[str, Any]:
    """Write the compressed network to ``out``: safetensors, ONNX or torch.export by its suffix.

    Sparse layers are packed in safetensors, unless ``unpacked``; ``load_packed`` reads them. With
    ``masks`` they have the masks of ``torch.nn.utils.prune``.
    """
    if from_original and finetuned:
        raise InputError("--from-original and --finetuned exclude each other; choose one")
    if masks and unpacked:
        raise InputError("--masks and --unpacked exclude each other; choose one")
    torch.set_num_threads(1)
    source = "original" if from_original else "finetuned" if finetuned else "plan"
    form: applied.Form = "masks" if masks else "unpacked" if unpacked else "packed"
    return applied.apply(plan, out, source, task, data_folder, form)


def load_packed(file: Path, plan: Path, task: str | None = None) -> nn.Module:
    """Return the network that ``apply`` wrote for a plan with sparse layers, ready to run.

    It runs on the compiled kernels, or on torch where they are not at hand. ``task`` names the
    plan's network if it is one's own.
    """
    facts = read_plan(plan)
    return applied.load_packed(file, facts, planned.load_planned_task(facts, task, None))


def finetune(
    plan: Path | Sequence[Path],
    out: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    task: str | None = None,
    data_folder: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Fine-tune a plan's network into the folder ``out``, by default ``PLAN-finetuned`` beside it.

    ``settings`` are fields of ``amc.finetune_settings.FinetuneSettings``. With ``resume`` an
    interrupted fine-tuning in ``out`` is gone on with, to the very weights that it would have
    reached. Returns its report, which says with which weights the compressed network reaches what.
    A run folder, or a list of plans and run folders, are many plans, without ``out``: each is
    fine-tuned into the folder beside it; returns a row for each.
    """
    from amc.finetune_batch import folder_beside, run_finetunings
    from amc.finetune_run import run_finetuning

    given, quiet = settings or {}, reporter or SilentReporter()
    if isinstance(plan, Path) and not plan.is_dir():
        folder = out or folder_beside(plan)
        return run_finetuning(
            plan, folder, given, resume, channel_importance, task, data_folder, quiet
        )
    if out is not None:
        raise InputError(
            f"--out {str(out)!r} is for one plan; leave it out, as each of several plans is "
            "fine-tuned into the folder PLAN-finetuned beside it"
        )
    plans = [plan] if isinstance(plan, Path) else plan
    return run_finetunings(plans, given, resume, channel_importance, task, data_folder, quiet)


def evaluate_plan(
    plan: Path, task: str | None = None, data_folder: str | None = None
) -> dict[str, Any]:
    """Return accuracy now and on record, and latency predicted, measured on record and now.

    ``backend`` names the kernels of the table that it was measured against; ``None`` where it was
    not measured, as a plan does not say what its latencies on record ran on.
    """
    torch.set_num_threads(1)
    return {"backend": None, **planned.evaluate(plan, task, data_folder)}


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
