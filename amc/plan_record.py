"""A plan file of what a search found: choices, costs, accuracies, and where they come from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from amc.cost import Cost
from amc.evaluation import Evaluation
from amc.plan_file import PlanFile
from amc.search_run import Found
from amc.session import Session
from amc.timing import Measured
from amc.worker import Final

VERSIONS = ("torch", "torch-pruning", "stable-baselines3", "numpy")


@dataclass(frozen=True)
class Dense:
    """The uncompressed network: scores, costs, and its time in the winners' session.

    Without a winner ``search_score`` may be ``None`` (``amc.finish``).
    """

    search_score: float | None
    test_score: float | None
    cost: Cost
    measurement: Measured | None  # of another machine's table nothing is measured

    def as_json(self) -> dict[str, Any]:
        """Return the ``dense`` object of a summary's row."""
        own = self.measurement
        return {
            "search_accuracy": self.search_score,
            "test_accuracy": self.test_score,
            **self.cost.as_report(),
            "measured_latency_s": None if own is None else own.measured_latency_s,
        }


@dataclass(frozen=True)
class Result:
    """A plan of a search, tested and timed; ``measurement`` is ``None`` as in ``Dense``."""

    found: Found
    evaluation: Evaluation
    final: Final
    measurement: Measured | None
    dense: Dense
    test_images: int


def plan_record(
    session: Session,
    result: Result,
    weights: Mapping[str, str] | None,
    finetuned: Mapping[str, str] | None,
) -> PlanFile:
    """Return the plan file of one evaluation; ``weights`` and ``finetuned`` are files beside it."""
    config, task, found = session.config, session.task, result.found
    plan = result.evaluation.request.plan
    return PlanFile.model_validate(
        {
            "schema_version": 1 if all(c.kept for c in plan.choices.values()) else 2,
            "task": task.name,
            "network_digest": task.network_digest,
            "weights": weights,
            "finetuned": finetuned,
            "choices": plan.as_json(),
            "costs": _costs(session, result),
            "accuracy": _accuracy(session, result),
            "evaluation": {
                "data": config.data,
                "search_images": config.search_images,
                "calibration_images": config.calibration_images,
                "batch_norm_images": config.batch_norm_images,
                "fold_batch_norm": config.fold_batch_norm,
                "fast_scoring": config.fast_scoring,
                "recovery": config.recovery,
                "weight_criterion": config.sites.weight_criterion,
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


def _costs(session: Session, result: Result) -> dict[str, Any]:
    latency, own, dense = session.config.latency, result.measurement, result.dense.measurement
    measured = None
    if own is not None and dense is not None:
        measured = {**own.as_json(), "dense_measured_latency_s": dense.measured_latency_s}
    return {
        "batch_size": latency.batch_size,
        "threads": latency.threads,
        "budget": dict(session.config.budget),
        "predicted": result.evaluation.cost.as_json(),
        "predicted_dense": result.dense.cost.as_json(),
        "measured": measured,
    }


def _accuracy(session: Session, result: Result) -> dict[str, Any]:
    final, dense = result.final, result.dense
    tuned = final.finetuned_search_score is not None
    return {
        "metric": session.task.score_name,
        "search": final.search_score,
        "search_images": len(session.task.search),
        "test": final.test_score,
        "test_images": result.test_images,
        "dense_search": dense.search_score,
        "dense_test": dense.test_score,
        "finetune_steps": session.config.finetune_steps if tuned else 0,
        "finetuned_search": final.finetuned_search_score,
        "finetuned_test": final.finetuned_test_score,
    }
