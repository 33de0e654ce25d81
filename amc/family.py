"""The family of a search whose plans build on each other (NetAdapt's): every member as a plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from amc.evaluation import Evaluation
from amc.files import write_json, write_text
from amc.plan_file import PlanFile
from amc.search_run import Found

# (member, its weights' file and digest or None) -> its plan file
PlanFileMaker = Callable[[Evaluation, Mapping[str, str] | None], PlanFile]


def write_family(found: Found, plan_file: PlanFileMaker) -> None:
    """Write ``family.json``, a list of the members, and of each its plan file ``family/NN.json``.

    They are those that the method named, in its order, from 00 on; weights lie beside the plans.
    A search whose method has no family leaves nothing.
    """
    folder = found.search.folder / "family"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier end of the same search
    if not found.family:
        return
    folder.mkdir()
    entries = []
    for number, member in enumerate(found.family):
        sha256 = member.weights_sha256
        weights = None if sha256 is None else {"file": f"{sha256}.safetensors", "sha256": sha256}
        if weights is not None:
            _beside(found.search.folder / "weights" / weights["file"], folder)
        plan = plan_file(member, weights)
        write_text(folder / f"{number:02d}.json", plan.text())
        entries.append(
            {
                "key": member.key,
                "score": member.in_task_unit,
                "costs": {"predicted": member.cost.as_json()},
                "weights_sha256": sha256,
                "choices": member.request.plan.as_json(),
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
