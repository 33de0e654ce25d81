"""``amc finetune`` of several plans with the same settings: those named, and the winners of runs.

Each is a fine-tuning of its own, in ``PLAN-finetuned`` beside its plan, as if it were asked for
alone. Its seed is that of its search, so that equal plans of several seeds show how much the
training itself varies, and agents are compared with the same order of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amc.contained import inside
from amc.errors import InputError
from amc.finetune_report import accuracies_of
from amc.finetune_run import REPORT, Importance, begun_with, check_new, run_finetuning
from amc.finetune_variants import searched_as
from amc.plan_file import PlanFile, read_plan
from amc.reporting import Handle, Reporter
from amc.run_folder import RunFolder


def folder_beside(plan: Path) -> Path:
    """Return the folder of a plan's fine-tuning where none is named.

    ``InputError`` for one that is a link out of the plan's own folder.
    """
    return inside(plan.parent, plan.parent / f"{plan.stem}-finetuned")


def run_finetunings(
    sources: Sequence[Path],
    given: Mapping[str, Any],
    resume: bool,
    importance: Importance,
    task_name: str | None,
    data_folder: str | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Fine-tune every plan of ``sources``, plan files and run folders; return a row for each.

    With ``resume`` those that have ended are left as they are, those begun are gone on with, and
    the others start with the settings of those. Raises ``InputError`` before anything is trained
    where a source is no plan, has been fine-tuned before and ``resume`` is not given, or where none
    has and it is.
    """
    plans = {path: read_plan(path) for path in plans_of(sources)}
    begun = {path: begun_with(folder_beside(path)) for path in plans} if resume else {}
    on_record = next((dict(settings) for settings in begun.values() if settings), {})
    on_record.pop("seed", None)
    listed = " ".join(map(str, sources))
    if resume and not on_record:
        raise InputError(f"nothing of {listed} has been begun; leave --resume out to start")
    for path in plans:
        if not resume:
            check_new(folder_beside(path))
    named = f" --task {task_name}" if task_name else ""
    named += f" --data-folder {data_folder}" if data_folder else ""
    reporter.hint(f"amc finetune {listed} --resume{named}")
    rows = []
    with reporter.task("plans", len(plans)) as bar:
        for path, plan in plans.items():
            goes_on = bool(begun.get(path))
            reporter.message(f"fine-tuning {path}")
            report = run_finetuning(
                path,
                folder_beside(path),
                given if goes_on else {**on_record, **given},
                goes_on,
                importance,
                task_name,
                data_folder,
                _KeepsHint(reporter),
            )
            rows.append(_row(path, plan, report))
            bar.advance()
    runs = [RunFolder.open(path) for path in sources if path.is_dir()]
    return {"rows": rows, "next": [_comparison(run) for run in runs]}


def _comparison(run: RunFolder) -> str:
    """Return the command that compares a run's agents, with ``uniform`` where it is one."""
    baseline = min(run.config.agents, key=lambda agent: agent != "uniform")
    return f"amc compare {run.path} --paired {baseline}"


def plans_of(sources: Sequence[Path]) -> list[Path]:
    """Return the plan files of ``sources``, those of a run folder in the order of its summary.

    Searches of a run that found no plan are left out.

    Raises ``InputError`` for a run that has not finished, and for a plan that is named twice.
    """
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)
            continue
        rows = RunFolder.open(source).read_summary()
        found += [
            source / f"{row['agent']}-s{row['seed']}" / "plan.json"
            for row in rows
            if row.get("plan")
        ]
    for path in found:
        if found.count(path) > 1:
            raise InputError(f"plan {str(path)!r} is named twice; name it once")
    return found


def _row(path: Path, plan: PlanFile, report: Mapping[str, Any]) -> dict[str, Any]:
    by_weights = accuracies_of(dict(report), folder_beside(path) / REPORT, searched_as(plan))
    before, after = by_weights[searched_as(plan)], by_weights["finetuned"]
    return {
        "plan": str(path),
        "agent": plan.provenance.agent,
        "seed": plan.provenance.seed,
        "dense_test_accuracy": by_weights["dense"]["test_accuracy"],
        "search_accuracy": before["search_accuracy"],
        "test_accuracy": before["test_accuracy"],
        "finetuned_search_accuracy": after["search_accuracy"],
        "finetuned_test_accuracy": after["test_accuracy"],
        "search_images": report["search_images"],
        "test_images": report["test_images"],
        "train_images": report["train_images"],
        "finetuned_plan": report["plan"],
        "train_s": report["observed"]["train_s"],
    }


class _KeepsHint:
    """A reporter that forwards all but hints: what goes on with one plan would forget the rest."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def task(self, description: str, total: int | None) -> Handle:
        """See ``Reporter``."""
        return self._inner.task(description, total)

    def message(self, text: str) -> None:
        """See ``Reporter``."""
        self._inner.message(text)

    def hint(self, text: str) -> None:
        """Drop ``text``."""
