"""The end of a run: winners on unseen images, on the device, in files, pictures and a summary."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from amc import plots
from amc.compress import compress
from amc.cost import Cost
from amc.data import Data
from amc.evaluation import Evaluation
from amc.files import write_bytes, write_json, write_text
from amc.latency.table import network_key
from amc.plan import Plan
from amc.plan_file import PlanFile
from amc.pricing import batch_of, is_here
from amc.reporting import Reporter
from amc.session import Found, Session
from amc.timing import Measured, measure_networks
from amc.tracking import Tracker
from amc.weights import state_sha256
from amc.worker import Final, State, score
from amc.workers import Workers

VERSIONS = ("torch", "torch-pruning", "stable-baselines3", "numpy")


@dataclass(frozen=True)
class Dense:
    """The uncompressed network: scores, costs, and its time in the winners' session."""

    search_score: float
    test_score: float | None
    cost: Cost
    measurement: Measured | None  # of another machine's table nothing is measured

    def as_json(self) -> dict[str, Any]:
        """Return the ``dense`` object of a summary's row."""
        own = self.measurement
        return {
            "search_accuracy": self.search_score,
            "test_accuracy": self.test_score,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "weight_bytes": self.cost.weight_bytes,
            "predicted_latency_s": self.cost.latency_s,
            "measured_latency_s": None if own is None else own.measured_latency_s,
        }


def finish_run(
    session: Session,
    found: Sequence[Found],
    test: Data | None,
    workers: Workers,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Return the rows of the summary, in the order of ``found``, with each winner's files written.

    The winners are scored on ``test`` once, here; their latency is measured together with the dense
    network's while the workers are idle. Nothing is measured for a table of another machine.
    """
    with reporter.task("testing and fine-tuning the winners", len(found)) as bar:
        results = finals(session, found, test, workers)
        bar.advance(len(found))
    with reporter.task("measuring the winners", None):
        measured = _measure(session, found)
    dense = Dense(*dense_scores(session, test), session.dense_cost, measured.get("dense"))
    rows = []
    for one, final in zip(found, results, strict=True):
        images = 0 if test is None else len(test)
        rows.append(
            write_results(session, one, final, measured.get(one.search.name), dense, images)
        )
    plots.progress(
        found[0].search.folder.parent / "progress.png",
        {one.search.name: _scores(session, one) for one in found},
        f"{session.task.name}: best so far",
    )
    return rows


def _scores(session: Session, found: Found) -> list[float | None]:
    """Return the score of every evaluation, ``None`` where it missed the budget."""
    met = session.budget.met_by
    return [e.score if e.feasible and met(e.cost) else None for e in found.history]


def _measure(session: Session, found: Sequence[Found]) -> dict[str, Measured]:
    """Return the measured latency of every winner by its search's name, and of ``dense``."""
    if not is_here(session.table):
        return {}
    task, space = session.task, session.space
    networks = {"dense": task.network}
    for one in found:
        kept = {site: c.kept for site, c in one.best.request.plan.choices.items()}
        networks[one.search.name] = compress(task.network, space.groups, kept)
    size = session.config.latency.batch_size
    yardstick = (network_key(task.network_digest, size), task.network)
    return measure_networks(networks, batch_of(task, size), session.table, yardstick)


def finals(
    session: Session, found: Sequence[Found], test: Data | None, workers: Workers
) -> list[Final]:
    """Return each winner on the test split, before and after the same short fine-tuning.

    Raises ``RuntimeError`` where a winner's score does not come out as the search recorded it.
    """
    steps = session.config.finetune_steps
    results = workers.finalise([(f.best.request.plan, f.state, test, steps) for f in found])
    for one, final in zip(found, results, strict=True):
        if final.search_score != one.best.score:
            raise RuntimeError(
                f"{one.search.name}: the winner scores {final.search_score!r} when built "
                f"again, but the search recorded {one.best.score!r}; the evaluation is not "
                "reproducible here"
            )
    return results


def dense_scores(session: Session, test: Data | None) -> tuple[float, float | None]:
    """Return the dense network's scores on the search and the test split."""
    task = session.task
    on_test = None if test is None else score(task.network, test, task.score)
    return score(task.network, task.search, task.score), on_test


def write_results(
    session: Session,
    found: Found,
    final: Final,
    measurement: Measured | None,
    dense: Dense,
    test_images: int,
) -> dict[str, Any]:
    """Write plan, weights and pictures into the search's folder; return its row of the summary."""
    folder = found.search.folder
    weights = _write_weights(folder, "weights.safetensors", found.state)
    finetuned = _write_weights(folder, "finetuned.safetensors", final.finetuned_state)
    plan = _plan_file(
        session, found, final, measurement, dense, test_images, weights=weights, finetuned=finetuned
    )
    write_text(folder / "plan.json", plan.text())
    _draw(session, found, dense)
    _write_family(found)
    cost = found.best.cost
    return {
        "agent": found.search.agent,
        "seed": found.search.seed,
        "evaluations": len(found.history),
        "recovery": session.config.recovery,
        "metric": session.task.score_name,
        "search_accuracy": found.best.score,
        "search_images": len(session.task.search),
        "test_accuracy": final.test_score,
        "test_images": test_images,
        "finetune_steps": session.config.finetune_steps,
        "finetuned_search_accuracy": final.finetuned_search_score,
        "finetuned_test_accuracy": final.finetuned_test_score,
        "macs": cost.macs,
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "batch_size": session.config.latency.batch_size,
        "predicted_latency_s": cost.latency_s,
        **_measured_facts(measurement, dense.measurement),
        "budget_used": float(getattr(cost, session.budget.field)) / session.budget.limit,
        "search_s": round(found.search_s, 3),
        "plan": str(folder / "plan.json"),
        "dense": dense.as_json(),
    }


def write_summary(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``summary.json`` of the run."""
    write_json(run_dir / "summary.json", list(rows))


def track(tracker: Tracker, row: Mapping[str, Any], folder: Path) -> None:
    """Give the tracker the final metrics, with the same keys for every agent, and the files."""
    keys = ("search_accuracy", "test_accuracy", "finetuned_test_accuracy", "macs", "params")
    final = {f"final/{key}": row[key] for key in (*keys, "speedup")}
    for kind in ("predicted", "measured"):
        seconds = row[f"{kind}_latency_s"]
        final[f"final/{kind}_latency_ms"] = None if seconds is None else 1000 * seconds
    tracker.log(
        row["evaluations"],
        {key: float(value) for key, value in final.items() if value is not None},
    )
    for name in ("plan.json", "tradeoff.png", "keep_ratios.png"):
        tracker.artifact(folder / name)


def _write_family(found: Found) -> None:
    """Write ``family.json``: the winners that led to the best plan, each the next one's parent.

    Their weights lie in the search's folder ``weights``, named by sha256. A search whose plans have
    no parents has no family.
    """
    by_key = {evaluation.key: evaluation for evaluation in found.history}
    family, member = [], found.best
    while member.request.parent is not None:
        family.append(member)
        member = by_key[member.request.parent]
    if not family:
        return
    winners = [
        {
            "key": evaluation.key,
            "score": evaluation.score,
            "costs": {"predicted": evaluation.cost.as_json()},
            "weights_sha256": evaluation.weights_sha256,
            "choices": evaluation.request.plan.as_json(),
        }
        for evaluation in [member, *reversed(family)]
    ]
    write_json(found.search.folder / "family.json", winners)


def _write_weights(folder: Path, name: str, state: State | None) -> dict[str, str] | None:
    if state is None:
        return None
    write_bytes(folder / name, save(state))
    return {"file": name, "sha256": state_sha256(state)}


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


def _plan_file(
    session: Session,
    found: Found,
    final: Final,
    measurement: Measured | None,
    dense: Dense,
    test_images: int,
    *,
    weights: Mapping[str, str] | None,
    finetuned: Mapping[str, str] | None,
) -> PlanFile:
    config, task = session.config, session.task
    plan: Plan = found.best.request.plan
    return PlanFile.model_validate(
        {
            "schema_version": 1,
            "task": task.name,
            "network_digest": task.network_digest,
            "weights": weights,
            "finetuned": finetuned,
            "choices": plan.as_json(),
            "costs": {
                "batch_size": config.latency.batch_size,
                "threads": config.latency.threads,
                "budget": dict(config.budget),
                "predicted": found.best.cost.as_json(),
                "predicted_dense": dense.cost.as_json(),
                "measured": None
                if measurement is None or dense.measurement is None
                else {
                    **measurement.as_json(),
                    "dense_measured_latency_s": dense.measurement.measured_latency_s,
                },
            },
            "accuracy": {
                "metric": task.score_name,
                "search": found.best.score,
                "search_images": len(task.search),
                "test": final.test_score,
                "test_images": test_images,
                "dense_search": dense.search_score,
                "dense_test": dense.test_score,
                "finetune_steps": config.finetune_steps,
                "finetuned_search": final.finetuned_search_score,
                "finetuned_test": final.finetuned_test_score,
            },
            "evaluation": {
                "data": config.data,
                "search_images": config.search_images,
                "calibration_images": config.calibration_images,
                "recovery": config.recovery,
            },
            "provenance": {
                "agent": found.search.agent,
                "seed": found.search.seed,
                "evaluations": len(found.history),
                "config_digest": config.digest,
                "table_digest": session.table.digest,
                "device": str(session.table.device.get("cpu", "")),
                "versions": {
                    "amc": version("amc"),
                    "python": platform.python_version(),
                    **{name: version(name) for name in VERSIONS},
                },
            },
        }
    )


def _draw(session: Session, found: Found, dense: Dense) -> None:
    folder, budget = found.search.folder, session.budget
    title = f"{session.task.name}, {found.search.agent}, seed {found.search.seed}"
    winner = _point(session, found.best)
    plots.tradeoff(
        folder / "tradeoff.png",
        [_point(session, evaluation) for evaluation in found.history],
        winner,
        {
            "latency_ms": 1000 * dense.cost.latency_s,
            "accuracy": dense.search_score,
            "feasible": False,
        },
        1000 * budget.limit if budget.field == "latency_s" else None,
        title,
    )
    plots.keep_ratios(folder / "keep_ratios.png", found.best.request.plan.keep_ratios, title)


def _point(session: Session, evaluation: Evaluation) -> plots.Point:
    return {
        "latency_ms": 1000 * evaluation.cost.latency_s,
        "accuracy": evaluation.score,
        "feasible": evaluation.feasible and session.budget.met_by(evaluation.cost),
    }
