"""What can be done with a plan file: check it, build its network, score it, export it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amc.compress import kept_of, realised
from amc.contained import inside
from amc.coupling import ChannelGroup, trace_coupling
from amc.deploy import deployed
from amc.errors import InputError
from amc.files import check_writable, write_together
from amc.latency import LatencyTable
from amc.latency.device import target_path
from amc.latency.table import network_key
from amc.layer_times import layer_times
from amc.plan_file import FilePart, PlanFile, read_plan, weights_beside
from amc.plan_scores import scorer, searched
from amc.pricing import is_here
from amc.printable import printable, shown
from amc.pruning import Pruner
from amc.recovery import Recovery
from amc.sparsify import layer_patterns, packed, sparse_layers
from amc.task import LoadedTask, load_task
from amc.timing import measure_deployed
from amc.weights import read_state, state_sha256
from amc.worker import state_tensors

DOUBTFUL = 0.10  # of the measured latency


def load_planned_task(
    plan: PlanFile,
    task: str | None,
    data_folder: str | None,
    data: Literal["pack", "full"] | None = None,
) -> LoadedTask:
    """Return the plan's own task, or the one named; ``InputError`` where its network differs.

    Its data are those that the plan was evaluated on, where ``data`` does not name others.
    """
    if task is None and ":" in plan.task:
        raise InputError(
            f"the plan's task {plan.task!r} names code, which is not run on a file's word; if you "
            f"trust it, say so with --task {plan.task}"
        )
    loaded = load_task(task or plan.task, data or plan.evaluation.data, data_folder)
    if loaded.network_digest != plan.network_digest:
        raise InputError(
            f"the plan is for the network with digest {plan.network_digest[:12]}..., but task "
            f"{loaded.name!r} has {loaded.network_digest[:12]}...; apply it to the network that it "
            "was made for"
        )
    return loaded


def validated(path: Path) -> dict[str, Any]:
    """Return what a plan file holds; ``InputError`` says what is wrong with it."""
    plan = read_plan(path)
    return {
        "file": str(path),
        "valid": True,
        "kind": "plan",
        "digest": plan.plan.digest,
        "task": plan.task,
        "sites": len(plan.choices),
    }


def groups_of(plan: PlanFile, task: LoadedTask) -> list[ChannelGroup]:
    """Return what each site of the plan decides on; ``InputError`` where it does not fit."""
    groups, _ = trace_coupling(task.network, task.inputs)
    by_name = {group.name: group for group in groups}
    modules = dict(task.network.named_modules())
    sparse = {f"{layer}.weight" for layer in sparse_layers(task.network)}
    for site, choice in plan.choices.items():
        if not choice.kept and site not in sparse and (site not in modules or choice.sparsity):
            raise InputError(
                f"choices.{shown(site)[1:-1]} is no layer of task {task.name!r} that can be "
                "sparse, and no block; the plan is not for it"
            )
        if not choice.kept:
            continue
        if site not in by_name:
            raise InputError(
                f"choices.{site} is no site of task {task.name!r}; the plan is not for it"
            )
        channels = by_name[site].channels
        if choice.kept[-1] >= channels:
            raise InputError(
                f"choices.{site}.kept names channel {choice.kept[-1]}, but the site has "
                f"{channels}; name channels below that"
            )
        ratio = len(choice.kept) / channels
        if not math.isclose(choice.keep_ratio, ratio, rel_tol=1e-6):
            raise InputError(
                f"choices.{site}.keep_ratio {choice.keep_ratio:g} contradicts kept, which lists "
                f"{len(choice.kept)} of {channels} channels; write {ratio:g}"
            )
    return [by_name[site] for site, choice in plan.choices.items() if choice.kept]


def build(plan: PlanFile, folder: Path, task: LoadedTask, source: str = "plan") -> nn.Module:
    """Return the compressed network, in evaluation mode.

    ``source`` says with which weights: ``plan``, those that its score depended on, or, where it
    names none, the original's with the recorded recovery; ``original``, always the latter;
    ``finetuned``, those of the short fine-tuning. Weight files are looked for in ``folder``.
    """
    chosen = groups_of(plan, task)
    kept = kept_of(plan.plan)
    network = realised(task.network, chosen, plan.plan)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    named = {"plan": plan.weights, "original": None, "finetuned": plan.finetuned}[source]
    if source == "finetuned" and named is None:
        raise InputError("the plan names no fine-tuned weights; its search had finetune_steps 0")
    if named is None:
        calibration = task.train[: plan.evaluation.calibration_images]
        recovery = Recovery(
            plan.evaluation.recovery,
            task.network,
            chosen,
            {},
            calibration,
            plan.evaluation.batch_norm_images,
        )
        recovery.reconstruct(network, kept)
        criterion = plan.evaluation.weight_criterion
        Pruner(criterion, task.network, chosen, calibration).prune(network, plan.plan)
        recovery.recalibrate(network)
    else:
        state = _read_weights(named, folder)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            text = printable(" ".join(str(error).split()), 400)
            raise InputError(
                f"weights {named.file!r} are not of the network that the plan leaves: {text}; "
                "restore the file, or apply with --from-original"
            ) from None
    return network.eval()


def _read_weights(named: FilePart, folder: Path) -> dict[str, Tensor]:
    path = inside(folder, folder / named.file)
    if not path.is_file():
        raise InputError(
            f"the plan's weights {named.file!r} are not beside it in {str(folder)!r}; copy them "
            "there, or apply with --from-original"
        )
    state = read_state(path)
    found = state_sha256(state)
    if found != named.sha256:
        raise InputError(
            f"weights {str(path)!r} have digest {found[:12]}..., but the plan names "
            f"{named.sha256[:12]}...; restore the file"
        )
    return state_tensors(state)


def accuracy(
    path: Path, task_name: str | None, data_folder: str | None
) -> tuple[PlanFile, LoadedTask, nn.Module, dict[str, Any]]:
    """Return the plan, its task and network, and its scores now beside those on record."""
    plan = read_plan(path)
    task = load_planned_task(plan, task_name, data_folder)
    network = build(plan, path.parent, task)
    score_of = scorer(plan.evaluation, task, groups_of(plan, task))
    now = {
        "search": score_of(network, searched(plan, task)),
        "test": None if task.test is None else score_of(network, task.test),
    }
    facts: dict[str, Any] = {"metric": task.score_name}
    for split, value in now.items():
        recorded = getattr(plan.accuracy, split)
        facts[f"{split}_accuracy"] = value
        facts[f"{split}_accuracy_on_record"] = recorded
    same = now["search"] == plan.accuracy.search  # a plan of a family has not seen the test split
    facts["reproduced"] = same and plan.accuracy.test in (None, now["test"])
    facts["test_images"] = 0 if task.test is None else len(task.test)
    return plan, task, network, facts


def evaluate(path: Path, task_name: str | None, data_folder: str | None) -> dict[str, Any]:
    """Return scores now and on record, and latency predicted, measured on record and measured now.

    It is measured now where the plan's latency table lies beside it, as in a run folder (beside the
    folder ``family`` for a plan in that), and is of a machine like this one; else with this
    machine's cached table, which ``note`` says; and where there is none it is ``None``, and
    ``note`` says why. ``size_bytes`` is what the deployed network's state takes, ``layers`` are
    those of ``amc.layer_times``, and ``warning`` says where prediction and measurement differ by
    more than ``DOUBTFUL``.
    """
    plan, task, network, facts = accuracy(path, task_name, data_folder)
    costs = plan.costs
    facts |= {
        "predicted_latency_s": costs.predicted.latency_s,
        "measured_latency_s_on_record": costs.measured and costs.measured.measured_latency_s,
        "measured_latency_s": None,
        "speedup": None,
        "macs": costs.predicted.macs,
        "params": costs.predicted.params,
    }
    table, note = _table_of(plan, path.parent)
    facts["note"] = note
    ready = packed(deployed(network, task.inputs), layer_patterns(plan.plan))
    facts["size_bytes"] = sum(t.numel() * t.element_size() for t in ready.state_dict().values())
    if table is None:
        return facts
    inputs = task.batch(costs.batch_size)
    whole = deployed(task.network, task.inputs)
    key = network_key(task.network_digest, costs.batch_size)
    networks = {"dense": whole, "plan": ready}
    measured = measure_deployed(networks, inputs, table, (key, whole))
    own, predicted = measured["plan"], costs.predicted.latency_s
    facts["layers"] = layer_times(ready, inputs, table, own.clock_factor)
    error = predicted / own.measured_latency_s - 1
    if abs(error) > DOUBTFUL:
        facts["warning"] = (
            f"predicted latency is {100 * error:+.0f}% off the measured one"
            + (", which is noisy" if own.noisy else "")
            + "; `amc measure` on a quiet machine times the table's kernels again"
        )
    return {
        **facts,
        "measured_latency_s": own.measured_latency_s,
        "noisy": own.noisy,
        "speedup": measured["dense"].measured_latency_s / own.measured_latency_s,
        "backend": table.backend,
    }


def _table_of(plan: PlanFile, folder: Path) -> tuple[LatencyTable | None, str | None]:
    """Return the table whose clock a measurement is brought to, and what to know about it.

    It is the plan's own where that lies beside it and is of this machine, else this machine's
    cached one. Without either the first is ``None``, and the second says why.
    """
    folder = folder.resolve()
    beside = (folder.parent if folder.name == "family" else folder) / "target.json"
    why = "the plan's table is not beside it"
    if beside.is_file():
        table = LatencyTable.load(inside(beside.parent, beside))
        if table.digest != plan.provenance.table_digest:
            why = f"{str(beside)!r} is not the table that the plan was priced with"
        elif not is_here(table):
            why = f"the plan's table is of another machine or torch ({table.device.get('cpu')})"
        else:
            return table, None
    cached = target_path("auto", torch.__version__, plan.costs.threads)
    if cached.is_file() and is_here(table := LatencyTable.load(cached)):
        return table, f"{why}; measured against this machine's own table"
    return None, f"latency not measured: {why}, and this machine has none; amc measure makes one"


def export(source: Path, out: Path) -> dict[str, Any]:
    """Copy a plan, and the weights that it names, beside each other; return the files written."""
    check_writable(out, "--out")
    plan = read_plan(source)
    contents: dict[Path, bytes] = {}
    parts: dict[str, Any] = plan.model_dump(mode="json")
    for role in ("weights", "finetuned"):
        named: FilePart | None = getattr(plan, role)
        if named is None:
            continue
        _read_weights(named, source.parent)
        file = weights_beside(out, role)
        check_writable(file, "--out's weights")
        contents[file] = (source.parent / named.file).read_bytes()  # just read, and checked
        parts[role] = {"file": file.name, "sha256": named.sha256}
    text = PlanFile.model_validate(parts).text()
    write_together({**contents, out: text.encode()})
    files = [str(out), *map(str, contents)]
    return {"out": str(out), "files": files, "agent": plan.provenance.agent}
