"""The family of a search whose plans build on each other (NetAdapt's): every winner as a plan."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from amc.evaluation import Evaluation
from amc.files import write_json, write_text
from amc.plan_file import PlanFile
from amc.session import Found


def family_of(found: Found) -> list[Evaluation]:
    """Return the winners that led to the best plan, it included, each the next one's parent.

    A search whose plans have no parents has no family: ``[]``.
    """
    by_key = {evaluation.key: evaluation for evaluation in found.history}
    family = [found.best]
    while (parent := family[-1].request.parent) is not None:
        family.append(by_key[parent])
    return family[::-1] if len(family) > 1 else []


def write_family(found: Found, best: PlanFile) -> None:
    """Write ``family.json``, a list of the winners, and of each its plan file ``family/NN.json``.

    The plan files are those of the trade-off curve: scored on the search images alone, neither
    timed nor seen by the test split, their weights beside them. ``best`` is the plan of the last.
    """
    folder = found.search.folder / "family"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier end of the same search
    family = family_of(found)
    if not family:
        return
    folder.mkdir()
    entries = []
    for number, winner in enumerate(family, 1):
        sha256 = winner.weights_sha256
        if sha256 is not None:
            _beside(found.search.folder / "weights" / f"{sha256}.safetensors", folder)
        write_text(folder / f"{number:02d}.json", _plan_of(winner, best).text())
        entries.append(
            {
                "key": winner.key,
                "score": winner.in_task_unit,
                "costs": {"predicted": winner.cost.as_json()},
                "weights_sha256": sha256,
                "choices": winner.request.plan.as_json(),
                "plan": f"family/{number:02d}.json",
            }
        )
    write_json(found.search.folder / "family.json", entries)


def _beside(weights: Path, folder: Path) -> None:
    """Put the file into ``folder`` without a second copy, where the file system can."""
    try:
        os.link(weights, folder / weights.name)
    except OSError:
        shutil.copyfile(weights, folder / weights.name)


def _plan_of(winner: Evaluation, best: PlanFile) -> PlanFile:
    """Return the plan file of one winner: what ``best`` says of the run, and its own numbers."""
    common = best.model_dump(mode="json")
    sha256 = winner.weights_sha256
    weights = None if sha256 is None else {"file": f"{sha256}.safetensors", "sha256": sha256}
    untested = {"test": None, "test_images": 0, "finetune_steps": 0}
    untuned = {"finetuned_search": None, "finetuned_test": None}
    return PlanFile.model_validate(
        {
            **common,
            "weights": weights,
            "finetuned": None,
            "choices": winner.request.plan.as_json(),
            "costs": {**common["costs"], "predicted": winner.cost.as_json(), "measured": None},
            "accuracy": {
                **common["accuracy"],
                "search": winner.in_task_unit,
                **untested,
                **untuned,
            },
        }
    )
