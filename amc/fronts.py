"""``amc front``: search spaces by what their fine-tuned plans reach on the device.

All plans of one network, from runs of several spaces and budgets, are timed beside the dense
network in each of its forms (``amc.bench_dense``), by turns in the same process, in several
processes; their accuracy is that of their fine-tuning's report, on test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from amc.apart import apart
from amc.bench_dense import TORCH_FORMS, dense_forms
from amc.bench_latency import MEASUREMENTS, PROCESSES, error_table, geometric_mean
from amc.config_identity import NOT_OF_THE_RESULT
from amc.deploy import deployed
from amc.errors import InputError
from amc.finetune_batch import folder_beside
from amc.finetune_report import accuracies_of, read_report
from amc.finetune_run import REPORT
from amc.latency import LatencyTable
from amc.latency.table import network_key
from amc.pareto import Point, hypervolume
from amc.plan_file import PlanFile, read_plan
from amc.planned import build, load_planned_task
from amc.pricing import PATIENCE_S, is_here
from amc.reporting import Reporter
from amc.run_folder import RunFolder
from amc.sparsify import layer_patterns, packed
from amc.timing import Measured, measure_deployed

SAME = "same"  # the fastest of torch's forms: the dense network in the same runtime
SECONDS_EACH = 1.0  # the longest for one network in one process
OF_A_POINT = ("space", "sites", "budget", "seeds", "latency")  # in which runs may differ
LOST = 0.005  # of accuracy, the most that a plan may lose for ``fastest``
WORST = 0.05  # of accuracy, what the hypervolume's worst point loses


@dataclass(frozen=True)
class Settings:
    """How plans are timed, and what a front is: accuracy lost at most, and at its worst point.

    ``task`` and ``data_folder`` are for plans of a network that is one's own.
    """

    lost: float = LOST
    worst: float = WORST
    processes: int = PROCESSES
    measurements: int = MEASUREMENTS
    seconds_each: float = SECONDS_EACH
    patience_s: float = PATIENCE_S
    task: str | None = None
    data_folder: str | None = None


@dataclass(frozen=True)
class Subject:
    """A fine-tuned plan, where it lies, and what its search and its report say of it."""

    path: Path
    plan: PlanFile
    space: str
    budget: Mapping[str, float]
    evaluations: int
    accuracy: float
    dense_accuracy: float
    test_images: int
    how: Mapping[str, Any]


def front(run_dirs: Sequence[Path], settings: Settings, reporter: Reporter) -> dict[str, Any]:
    """Return the fronts of one network's runs; ``rows`` has the plans, ``spaces`` the fronts.

    Every row has test accuracy after fine-tuning, predicted and measured latency, and speed-ups
    over each form of the dense network: geometric means of ratios within a process. ``same`` is
    that over the fastest form in this runtime, torch; ``missing`` says why a form is not there.
    ``predictions`` are the statistics of ``amc.bench_latency.error_table`` over all rows. Raises
    ``InputError`` where a plan was not fine-tuned, or not like the others, and for a machine other
    than theirs.
    """
    subjects = [subject for path in run_dirs for subject in _subjects(RunFolder.open(path))]
    _check_alike(subjects)
    table = _table_of(subjects)
    paths = [subject.path for subject in subjects]
    sittings = [
        [apart(measured, reporter, paths, settings) for _ in range(settings.processes)]
        for _ in range(settings.measurements)
    ]
    rows = [_row(subject, sittings, place) for place, subject in enumerate(subjects)]
    together = [process for sitting in sittings for process in sitting]
    first = subjects[0]
    return {
        "network": first.plan.task,
        "batch_size": first.plan.costs.batch_size,
        "threads": table.threads,
        "backend": table.backend,
        "test_images": first.test_images,
        "dense_test_accuracy": first.dense_accuracy,
        "lost": settings.lost,
        "worst": settings.worst,
        "dense": {
            form: geometric_mean([process.dense[form].measured_latency_s for process in together])
            for form in together[0].dense
        },
        "missing": dict(together[0].missing),
        "spaces": spaces_of(rows, settings),
        "predictions": error_table(rows)[0],
        "rows": rows,
    }


def _subjects(run: RunFolder) -> list[Subject]:
    """Return the fine-tuned plans of a run; ``InputError`` where one has not been fine-tuned."""
    subjects = []
    begun = any(run.path.glob("*/plan-finetuned"))
    for row in run.read_summary():
        if not row["plan"]:
            continue
        folder = folder_beside(run.path / f"{row['agent']}-s{row['seed']}" / "plan.json")
        if not (folder / REPORT).is_file():
            raise InputError(
                f"the plans of {str(run.path)!r} have not all been fine-tuned; do so with: "
                f"amc finetune {run.path}{' --resume' if begun else ''}"
            )
        report = read_report(folder / REPORT)
        by_weights = accuracies_of(report, folder / REPORT)
        if None in (by_weights[name]["test_accuracy"] for name in ("dense", "finetuned")):
            raise InputError(
                f"{str(folder / REPORT)!r} has no accuracy on test images; leave this run out"
            )
        subjects.append(
            Subject(
                folder / "plan.json",
                read_plan(folder / "plan.json"),
                run.config.space,
                run.config.budget,
                row["evaluations"],
                by_weights["finetuned"]["test_accuracy"],
                by_weights["dense"]["test_accuracy"],
                report["test_images"],
                {**report["identity"]["settings"], "seed": None, **_searched_how(run)},
            )
        )
    return subjects


def _searched_how(run: RunFolder) -> dict[str, Any]:
    """Return what must be the same for two runs to compare spaces: all but space and budget."""
    values = run.config.model_dump(mode="json", exclude={*NOT_OF_THE_RESULT, *OF_A_POINT})
    return {f"the search's {key}": value for key, value in values.items()}


def _check_alike(subjects: Sequence[Subject]) -> None:
    """Raise ``InputError`` unless all are of one network, and timed and fine-tuned in one way."""
    if not subjects:
        raise InputError("the runs named have no plan between them")

    def facts(subject: Subject) -> dict[str, Any]:
        costs = subject.plan.costs
        its: dict[str, Any] = {"task": subject.plan.task, "network": subject.plan.network_digest}
        its |= {"batch size": costs.batch_size, "threads": costs.threads}
        return its | {"test images": subject.test_images} | dict(subject.how)

    first, *others = ((s.path, facts(s)) for s in subjects)
    for path, its in others:
        for key in {**first[1], **its}:
            mine, value = its.get(key), first[1].get(key)
            if mine != value:
                raise InputError(
                    f"{str(path)!r} cannot stand beside {str(first[0])!r}: {key} is {mine!r} "
                    f"and {value!r}; leave one out"
                )


def _table_of(subjects: Sequence[Subject]) -> LatencyTable:
    """Return the first plan's latency table; ``InputError`` unless all are of this machine's clock.

    Searches after each other may have added kernels to it.
    """
    files = [subject.path.parent / "target.json" for subject in subjects]
    tables = [LatencyTable.load(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        if not is_here(table):
            raise InputError(f"{str(file)!r} is of another machine or torch; search here first")
        if table.reference_s != tables[0].reference_s:
            raise InputError(
                f"{str(file)!r} and {str(files[0])!r} are tables measured at different times, so "
                "that predictions from both cannot be compared; leave one out"
            )
    return tables[0]


@dataclass(frozen=True)
class Sitting:
    """What one process has timed: each plan by its place, each dense form by its name."""

    plans: Sequence[Measured]
    dense: Mapping[str, Measured]
    missing: Mapping[str, str]

    def ratios(self, place: int) -> dict[str, float]:
        """Return how many times as fast as each dense form one plan is, ``SAME`` included."""
        own = self.plans[place].measured_raw_s
        found = {form: its.measured_raw_s / own for form, its in self.dense.items()}
        return {SAME: min(found[form] for form in TORCH_FORMS if form in found), **found}


def measured(reporter: Reporter, paths: Sequence[Path], settings: Settings) -> Sitting:
    """Return how long each plan's network and each dense form take, in this process."""
    torch.set_num_threads(1)
    plans = [read_plan(path) for path in paths]
    task = load_planned_task(plans[0], settings.task, settings.data_folder)
    table = LatencyTable.load(paths[0].parent / "target.json")
    size = plans[0].costs.batch_size
    inputs = task.batch(size)
    dense = deployed(task.network, inputs)
    forms, missing = dense_forms(dense, inputs, table.threads)
    networks: dict[str, nn.Module] = {**forms}
    with reporter.task("building plans", len(plans)) as bar:
        for number, (plan, path) in enumerate(zip(plans, paths, strict=True)):
            ready = deployed(build(plan, path.parent, task), inputs)
            networks[str(number)] = packed(ready, layer_patterns(plan.plan))
            bar.advance()
    yardstick = (network_key(task.network_digest, size), dense)
    each, patience_s = settings.seconds_each, settings.patience_s
    with reporter.task(f"measuring {len(networks)} networks", None):
        found = measure_deployed(networks, inputs, table, yardstick, each, patience_s)
    own = [found[str(number)] for number in range(len(plans))]
    return Sitting(own, {form: found[form] for form in forms}, missing)


def _row(subject: Subject, sittings: Sequence[Sequence[Sitting]], place: int) -> dict[str, Any]:
    """Return what is known of one plan, at its ``place`` among those that were timed."""
    together = [process for sitting in sittings for process in sitting]
    own = [process.plans[place] for process in together]
    means = [geometric_mean([p.plans[place].measured_latency_s for p in its]) for its in sittings]
    by_process = [process.ratios(place) for process in together]
    ratios = {form: [its[form] for its in by_process] for form in by_process[0]}
    predicted = subject.plan.costs.predicted
    return {
        "network": subject.plan.task,
        "space": subject.space,
        "budget": dict(subject.budget),
        "agent": subject.plan.provenance.agent,
        "seed": subject.plan.provenance.seed,
        "evaluations": subject.evaluations,
        "plan": str(subject.path),
        "sparse_layers": len(layer_patterns(subject.plan.plan)),
        "macs": predicted.macs,
        "test_accuracy": subject.accuracy,
        "lost": subject.dense_accuracy - subject.accuracy,
        "predicted_latency_s": predicted.latency_s,
        "measured_latency_s": means[0],
        "measured_again_s": means[-1],
        "processes_s": [its.measured_latency_s for its in own],
        "noisy": any(its.noisy for its in own),
        "speedup": {form: geometric_mean(values) for form, values in ratios.items()},
        "least_speedup": {form: min(values) for form, values in ratios.items()},
    }


def spaces_of(rows: Sequence[Mapping[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Return a row a space: its hypervolume, seed by seed, and its fastest plan of little loss.

    The hypervolume's worst point is the dense network in its fastest form of this runtime, less
    ``settings.worst`` of accuracy; 1 would be the dense network's accuracy in no time. ``fastest``
    is each seed's plan that loses at most ``settings.lost``, as its speed-ups over each form
    (``None`` without one).
    """
    found = []
    for space in dict.fromkeys(row["space"] for row in rows):
        own = [row for row in rows if row["space"] == space]
        seeds = list(dict.fromkeys(row["seed"] for row in own))
        by_seed = [[row for row in own if row["seed"] == seed] for seed in seeds]
        volumes = [_volume(its, settings.worst) for its in by_seed]
        found.append(
            {
                "space": space,
                "plans": len(own),
                "seeds": seeds,
                "hypervolume": float(np.median(volumes)),
                "hypervolumes": volumes,
                "fastest": [_fastest(its, settings.lost) for its in by_seed],
            }
        )
    return found


def _volume(rows: Sequence[Mapping[str, Any]], worst: float) -> float:
    """Return the hypervolume in units of the dense network: its latency, and ``worst``."""
    points = [Point(1 / row["speedup"][SAME], -row["lost"]) for row in rows]
    return hypervolume(points, Point(1.0, -worst), 0.0)


def _fastest(rows: Sequence[Mapping[str, Any]], lost: float) -> dict[str, float] | None:
    """Return the speed-ups of the fastest plan that loses at most ``lost``."""
    good = [row["speedup"] for row in rows if row["lost"] <= lost + 1e-9]
    return max(good, key=lambda speedup: float(speedup[SAME]), default=None)
