"""What a finished search leaves: plan, weights, family, pictures, and a row of the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from amc import faults, plots
from amc.curve_plots import learning_curves
from amc.evaluation import Evaluation
from amc.family import write_family
from amc.files import write_json, write_together
from amc.learning_curves import curves_of, within
from amc.plan_file import PlanFile
from amc.plan_record import Dense, Result, plan_record
from amc.search_run import Found, stopped_early
from amc.session import Session
from amc.timing import Measured
from amc.weights import state_sha256
from amc.worker import Final, State


def write_result(session: Session, result: Result) -> dict[str, Any]:
    """Write the files of a search and its winner; return its row of the summary."""
    found, final, dense = result.found, result.final, result.dense
    folder = found.search.folder
    files: dict[Path, bytes] = {}
    weights = _weights(folder / "weights.safetensors", found.state, files)
    finetuned = _weights(folder / "finetuned.safetensors", final.finetuned_state, files)
    plan = plan_record(session, result, weights, finetuned)
    write_together({**files, folder / "plan.json": plan.text().encode()})
    faults.point("result.plan_written")
    _draw(session, found, dense)
    plots.keep_ratios(
        folder / "keep_ratios.png",
        result.evaluation.request.plan.keep_ratios,
        _title(session, found),
    )
    _write_family(session, found, dense)
    cost = result.evaluation.cost
    return {
        **_facts(session, found),
        "failure": None,
        "search_accuracy": final.search_score,
        "test_accuracy": final.test_score,
        "test_images": result.test_images,
        "finetuned_search_accuracy": final.finetuned_search_score,
        "finetuned_test_accuracy": final.finetuned_test_score,
        **cost.as_report(),
        **_measured_facts(result.measurement, dense.measurement),
        "budget_used": float(getattr(cost, session.budget.field)) / session.budget.limit,
        "plan": str(folder / "plan.json"),
        "notes": list(final.notes),
        "dense": dense.as_json(),
    }


def write_failure(session: Session, found: Found, dense: Dense) -> dict[str, Any]:
    """Write what a search without a winner leaves, its family too; return its row, which has the
    keys of a winner's: ``failure`` says what to do, what is of a plan is ``None``.
    """
    _draw(session, found, dense)
    _write_family(session, found, dense)
    return {
        **_facts(session, found),
        "failure": _failure(session, found),
        **dict.fromkeys(
            (
                *("search_accuracy", "test_accuracy"),
                *("finetuned_search_accuracy", "finetuned_test_accuracy"),
                *("macs", "params", "weight_bytes", "predicted_latency_s"),
            )
        ),
        "test_images": 0,
        **_measured_facts(None, None),
        "budget_used": None,
        "plan": None,
        "notes": [],
        "dense": dense.as_json(),
    }


def _facts(session: Session, found: Found) -> dict[str, Any]:
    """Return what a row of the summary says of any search."""
    return {
        "agent": found.search.agent,
        "seed": found.search.seed,
        "evaluations": len(found.history),
        "recovery": session.config.recovery,
        "metric": session.task.score_name,
        "score": session.config.score,
        "best_score": None if found.best is None else found.best.score,
        "stopped": stopped_early(found.history),
        "search_images": len(session.task.search),
        "finetune_steps": session.config.finetune_steps,
        "batch_size": session.config.latency.batch_size,
        "backend": session.table.backend,
        "search_s": round(found.search_s, 3),
        **found.times,
    }


def _failure(session: Session, found: Found) -> str:
    """Return why there is no plan, and what may be done about it."""
    agent, budget = found.search.agent, session.budget
    run_dir = found.search.folder.parent
    if found.failure is not None:
        return (
            f"{agent} seed {found.search.seed}: {found.failure}; mend the cause, then go on with: "
            f"amc resume {run_dir}"
        )
    count = len(found.history)
    remedy = f"go on with: amc resume {run_dir} --evaluations {2 * session.config.evaluations}"
    if "evaluations" in session.config.agents[agent]:
        remedy = f"raise agents.{agent}.evaluations in a new run"
    return (
        f"{agent} seed {found.search.seed}: none of {count} evaluations met the budget "
        f"{budget.key} {budget.fraction:g}; {remedy}, or raise budget.{budget.key}"
    )


def _write_family(session: Session, found: Found, dense: Dense) -> None:
    """Write the plans of the family: scored on the search images alone, and not timed."""

    def plan_file(member: Evaluation, weights: Mapping[str, str] | None) -> PlanFile:
        untested = Final(member.score, member.in_task_unit, None, None, None, None)
        return plan_record(session, Result(found, member, untested, None, dense, 0), weights, None)

    write_family(found, plan_file)


def write_summary(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``summary.json`` of the run, with paths within it, as it may be moved or given away."""
    inside = [
        {**row, "plan": row["plan"] and str(Path(row["plan"]).relative_to(run_dir))} for row in rows
    ]
    write_json(run_dir / "summary.json", inside)
    faults.point("summary.written")


def run_result(run_dir: Path, task: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a finished run answers: its folder, its rows and what to do next."""
    commands = [f"amc ui --run-dir {run_dir}"]
    if row := next((row for row in rows if row["plan"]), None):
        first = row["plan"] + (f" --task {task}" if ":" in task else "")
        commands += [
            f"amc evaluate {first}",
            f"amc apply {first} --out compressed.onnx",
            f"amc export {run_dir} --agent {row['agent']} --out plan.json",
        ]
    return {"run_dir": str(run_dir), "rows": list(rows), "next": commands}


def draw_progress(session: Session, found: Sequence[Found]) -> None:
    """Draw ``progress.png`` into the run's folder: the learning curves of all that evaluated."""
    histories: dict[str, list[list[Evaluation | None]]] = {}
    for one in (one for one in found if one.history):
        own = histories.setdefault(one.search.agent, [])
        own.append(within(one.history, session.budget))
    if not histories:
        return
    scores, rewards = curves_of(histories)
    title = f"{session.task.name}: best so far"
    folder = found[0].search.folder.parent
    plots.save(learning_curves(title, scores, rewards), folder / "progress.png")


def _weights(path: Path, state: State | None, files: dict[Path, bytes]) -> dict[str, str] | None:
    """Add the file of ``state`` to ``files``; return what a plan says of it."""
    if state is None:
        return None
    files[path] = save(state)
    return {"file": path.name, "sha256": state_sha256(state)}


def _measured_facts(own: Measured | None, dense: Measured | None) -> dict[str, Any]:
    if own is None or dense is None:
        keys = ("measured_latency_s", "measured_raw_s", "clock_factor", "noisy", "speedup")
        return dict.fromkeys(keys)
    return {
        "measured_latency_s": own.measured_latency_s,
        "measured_raw_s": own.measured_raw_s,
        "clock_factor": own.clock_factor,
        "noisy": own.noisy,
        "speedup": dense.measured_latency_s / own.measured_latency_s,
    }


def _draw(session: Session, found: Found, dense: Dense) -> None:
    if not found.history:
        return
    budget = session.budget
    plots.tradeoff(
        found.search.folder / "tradeoff.png",
        [_point(session, e) for e in found.history if e.stopped_after is None],
        None if found.best is None else _point(session, found.best),
        _dense_point(dense),
        1000 * budget.limit if budget.field == "latency_s" else None,
        _title(session, found),
    )


def _title(session: Session, found: Found) -> str:
    return f"{session.task.name}, {found.search.agent}, seed {found.search.seed}"


def _dense_point(dense: Dense) -> plots.Point | None:
    if dense.search_score is None:
        return None
    latency_ms = 1000 * dense.cost.latency_s
    return {"latency_ms": latency_ms, "accuracy": dense.search_score, "feasible": False}


def _point(session: Session, evaluation: Evaluation) -> plots.Point:
    return {
        "latency_ms": 1000 * evaluation.cost.latency_s,
        "accuracy": evaluation.in_task_unit,
        "feasible": evaluation.feasible and session.budget.met_by(evaluation.cost),
    }
