"""The family of a search whose plans build on each other (NetAdapt's): every member as a plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amc.evaluation import Evaluation
from amc.files import write_bytes, write_json, write_text
from amc.plan_file import PlanFile
from amc.search_run import Found

# (member, its weights' file and digest or None) -> its plan file
PlanFileMaker = Callable[[Evaluation, Mapping[str, str] | None], PlanFile]


def write_family(found: Found, plan_file: PlanFileMaker) -> None:
    """Write ``family.json``, a list of the members, and of each its plan file ``family/NN.json``.

    They are those that the method named, in its order, from 00 on; weights lie beside the plans.
    A search whose method has no family leaves nothing.
    """
    final = found.search.folder / "family"
    if not found.family:
        shutil.rmtree(final, ignore_errors=True)  # of an earlier end of the same search
        return
    building = final.with_name(".family")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        entries = [
            _write_member(building, number, member, plan_file)
            for number, member in enumerate(found.family)
        ]
        write_json(building / "family.json", entries)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)  # only now, as there may have been no space
    building.rename(final)
    (final / "family.json").replace(final.with_name("family.json"))


def _write_member(
    folder: Path, number: int, member: Evaluation, plan_file: PlanFileMaker
) -> dict[str, Any]:
    """Write a member's plan into ``folder``, its weights beside it; return its entry."""
    sha256 = member.weights_sha256
    weights = None if sha256 is None else {"file": f"{sha256}.safetensors", "sha256": sha256}
    if weights is not None:
        _beside(folder.parent / "weights" / weights["file"], folder)
    write_text(folder / f"{number:02d}.json", plan_file(member, weights).text())
    return {
        "key": member.key,
        "score": member.in_task_unit,
        "costs": {"predicted": member.cost.as_json()},
        "weights_sha256": sha256,
        "choices": member.request.plan.as_json(),
        "plan": f"family/{number:02d}.json",
    }


def _beside(weights: Path, folder: Path) -> None:
    """Put the file into ``folder`` without a second copy, where the file system can."""
    try:
        os.link(weights, folder / weights.name)
    except OSError:
        write_bytes(folder / weights.name, weights.read_bytes())
