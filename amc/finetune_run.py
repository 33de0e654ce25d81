"""A fine-tuning from a plan file to a folder: what it depends on, and what it leaves there.

DIR/plan.json  weights.safetensors  report.json  (checkpoint.safetensors until it has ended)
DIR/test_correct.safetensors  which test images each row of the report's accuracies gets right
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save
from torch import Tensor, nn

from amc.contained import inside
from amc.correctness import Correct, Marking, write_correctness
from amc.coupling import ChannelGroup
from amc.data import Data
from amc.errors import InputError
from amc.files import check_writable, write_bytes, write_json, write_text
from amc.finetune import CHECKPOINT, FinetuneJob, FineTuning
from amc.finetune_checkpoint import Checkpoint, Progress, read_checkpoint
from amc.finetune_report import read_report
from amc.finetune_settings import FinetuneSettings, parse_settings
from amc.finetune_variants import variants
from amc.latency.table import MOST_BYTES
from amc.plan import digest
from amc.plan_file import PlanFile, read_plan
from amc.planned import groups_of, load_planned_task
from amc.reporting import Reporter
from amc.strict_json import read_bytes
from amc.task import LoadedTask, data_digest
from amc.weights import state_sha256
from amc.worker import state_arrays

REPORT = "report.json"
WEIGHTS = "weights.safetensors"
TEST_CORRECT = "test_correct.safetensors"
Importance = Callable[[LoadedTask, list[ChannelGroup], str, Data], Mapping[str, Tensor]]


def run_finetuning(
    source: Path,
    out: Path,
    given: Mapping[str, Any],
    resume: bool,
    importance: Importance,
    task_name: str | None,
    data_folder: str | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Fine-tune the plan ``source`` into the folder ``out``; return the report, and where it lies.

    ``given`` are settings; the seed is the search's where they have none. With ``resume`` those on
    record count, and given ones must agree with them. ``importance`` scores the channels of groups
    by a criterion.
    """
    plan = read_plan(source)
    if not resume:
        check_new(out)
    before = _recorded(out) if resume else _Before(out)
    settings = _settings(given, before, out, plan.provenance.seed)
    plan_digest = digest(plan.model_dump(mode="json"))
    before.check_same("plan", str(source), plan_digest)
    if before.report is not None:
        return _answer(before.report, out, task_name)
    check_writable(out, "--out", folder=True)
    torch.set_num_threads(settings.threads)
    task = load_planned_task(plan, task_name, data_folder, settings.data)
    data = data_digest(task.train, task.search)
    before.check_same("data", task.name, data)
    groups = groups_of(plan, task)
    calibration = task.train[: plan.evaluation.calibration_images]
    scores = importance(task, groups, settings.criterion, calibration)
    job = FinetuneJob(plan, source.parent, task, groups, scores, settings)
    identity = {"plan": plan_digest, "data": data, "settings": settings.identity}
    tuning = FineTuning(job, out, identity, before.checkpoint, reporter)
    named = f" --task {task_name}" if task_name else ""
    named += f" --data-folder {data_folder}" if data_folder else ""
    reporter.hint(f"amc finetune {source} --out {out} --resume{named}")
    network = tuning.run()
    report = _finish(job, network, tuning.progress, identity, out, reporter)
    return _answer(report, out, task_name)


@dataclass(frozen=True)
class _Before:
    """What an earlier process left: nothing, a checkpoint, or the report of all that was asked."""

    out: Path
    identity: Mapping[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    report: Mapping[str, Any] | None = None

    def check_same(self, what: str, name: str, now: str) -> None:
        """Raise ``InputError`` unless ``what`` has the digest on record, where there is one."""
        if self.identity is not None and now != self.identity[what]:
            raise InputError(
                f"{what} {name!r} has digest {now[:12]}..., but {str(self.out)!r} was begun with "
                f"{self.identity[what][:12]}...; name the same {what}, or start in another folder"
            )


def check_new(out: Path) -> None:
    """Raise ``InputError`` where the folder ``out`` has something in it already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"--out {str(out)!r} is there already; name a new folder, or go on with what was "
            "begun there with --resume"
        )


def begun_with(out: Path) -> dict[str, Any] | None:
    """Return the settings of the fine-tuning in ``out``, ended or not, or ``None`` for none."""
    if not (out / REPORT).is_file() and not (out / CHECKPOINT).is_file():
        return None
    identity = _recorded(out).identity
    assert identity is not None
    return dict(identity["settings"])


def _recorded(out: Path) -> _Before:
    if (out / REPORT).is_file():
        report = read_report(out / REPORT)
        return _Before(out, report["identity"], report=report)
    if not (out / CHECKPOINT).is_file():
        raise InputError(
            f"--out {str(out)!r} has no {CHECKPOINT} to go on from; leave --resume out to start"
        )
    checkpoint = read_checkpoint(out / CHECKPOINT)
    return _Before(out, checkpoint.identity, checkpoint)


def _settings(given: Mapping[str, Any], before: _Before, out: Path, seed: int) -> FinetuneSettings:
    """Return the settings on record, which ``given`` ones must not contradict, else those given."""
    asked = parse_settings({"seed": seed, **given})
    if before.identity is None:
        return asked
    settings = parse_settings(before.identity["settings"])
    for key in given:
        if getattr(asked, key) != getattr(settings, key):
            raise InputError(
                f"{key} {getattr(asked, key)!r} is not the {getattr(settings, key)!r} that "
                f"{str(out)!r} was begun with; leave it out, or start in another folder"
            )
    return settings


def _finish(
    job: FinetuneJob,
    network: nn.Module,
    progress: Progress,
    identity: Mapping[str, Any],
    out: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Score everything, on test for the first time, and write weights, plan and report."""
    with reporter.task("testing", None):
        correct: dict[str, Correct] = {}
        rows = list(_accuracies(job, network, progress.notes.append, correct))
    state = state_arrays(network)
    write_bytes(out / WEIGHTS, save(state))
    weights = {"file": WEIGHTS, "sha256": state_sha256(state)}
    write_text(out / "plan.json", _plan_file(job, rows, weights).text())
    if (table := job.folder / "target.json").is_file():
        content = read_bytes(inside(job.folder, table), "latency table", MOST_BYTES)
        write_bytes(out / table.name, content)  # what `amc evaluate` times against
    if correct:
        write_correctness(out / TEST_CORRECT, correct)
    report = {
        "task": job.task.name,
        "metric": job.task.score_name,
        "recovery": job.recovery or "plan",
        "accuracies": rows,
        "train_images": len(job.task.train),
        "search_images": len(job.search),
        "test_images": 0 if job.task.test is None else len(job.task.test),
        "macs": job.plan.costs.predicted.macs,
        "params": sum(p.numel() for p in network.parameters()),
        "stages": [
            {"level": stage.level, **asdict(end), "planned_steps": stage.steps}
            for stage, end in zip(job.stages(), progress.ends, strict=True)
        ],
        "checks": [asdict(check) for check in progress.checks],
        "notes": list(dict.fromkeys(progress.notes)),
        "identity": dict(identity),
        "observed": {"train_s": round(progress.train_s, 3), "resumed": progress.resumed},
    }
    write_json(out / REPORT, report)
    (out / CHECKPOINT).unlink()
    return report


def _accuracies(
    job: FinetuneJob,
    network: nn.Module,
    notes: Callable[[str], None],
    correct: dict[str, Correct],
) -> Iterator[dict[str, Any]]:
    """Yield one row a network, the fine-tuned one last; ``correct`` gets its test images by row."""
    task = job.task
    for name, one in itertools.chain(variants(job, notes), [("finetuned", network)]):
        search, test = _finite(job.score(one, job.search)), None
        if task.test is not None:
            marking = Marking(task.score)
            test = _finite(job.score(one, task.test, marking))
            if marking.correct is not None and test is not None:
                correct[name] = marking.correct
        yield {"weights": name, "search_accuracy": search, "test_accuracy": test}


def _finite(value: float) -> float | None:
    """Return the score, ``None`` where outputs were not finite."""
    return value if math.isfinite(value) else None


def _plan_file(
    job: FinetuneJob, rows: Sequence[Mapping[str, Any]], weights: Mapping[str, str]
) -> PlanFile:
    """Return the plan with the new weights, and the scores that they reach."""
    dense, tuned = rows[0], rows[-1]
    parts = job.plan.model_dump(mode="json")
    parts |= {"weights": weights, "finetuned": None}
    parts["evaluation"]["data"] = job.settings.data or job.plan.evaluation.data
    parts["accuracy"] = {
        "metric": job.task.score_name,
        "search": tuned["search_accuracy"],
        "search_images": len(job.search),
        "test": tuned["test_accuracy"],
        "test_images": 0 if job.task.test is None else len(job.task.test),
        "dense_search": dense["search_accuracy"],
        "dense_test": dense["test_accuracy"],
        "finetune_steps": 0,  # of the short fine-tuning after a search
        "finetuned_search": None,
        "finetuned_test": None,
    }
    return PlanFile.model_validate(parts)


def _answer(report: Mapping[str, Any], out: Path, task: str | None) -> dict[str, Any]:
    named = f" --task {task}" if task else ""
    plan = out / "plan.json"
    return {
        **report,
        "out": str(out),
        "plan": str(plan),
        "next": [
            f"amc evaluate {plan}{named}",
            f"amc apply {plan} --out finetuned.onnx{named}",
        ],
    }
