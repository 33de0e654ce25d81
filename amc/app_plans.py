"""The Python interface to plans: make, apply, fine-tune and evaluate them. Part of ``amc.app``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc import applied, planned
from amc.assembly import channel_importance, load_config
from amc.errors import InputError
from amc.plan_file import read_plan
from amc.reporting import Reporter, SilentReporter
from amc.run_folder import RunFolder
from amc.task import load_task


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
