"""``amc compare --paired``: agents against one of them, image by image, over the seeds of a run.

Each plan of the run has been fine-tuned (``amc finetune RUN_DIR``), which notes for every test
image whether it was right. Three networks of a plan are compared:

- ``searched``: the one that the search scored, with weights of its own where it had some
  (NetAdapt's short-term fine-tuning);
- ``recovered``: the same channels with the dense network's weights and the run's recovery, so that
  nothing but the choice of channels differs between agents;
- ``finetuned``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amc.bootstrap import paired_difference
from amc.correctness import Correct, read_correctness
from amc.errors import InputError
from amc.finetune_batch import folder_beside
from amc.finetune_report import read_report
from amc.finetune_run import REPORT, TEST_CORRECT
from amc.finetune_variants import recovered_as, searched_as
from amc.plan_file import read_plan
from amc.printable import dotted, shown
from amc.run_folder import RunFolder, Search

NETWORKS = ("searched", "recovered", "finetuned")


@dataclass(frozen=True)
class _Tested:
    """One plan's test images by network, ``dense`` among them, and how it was fine-tuned."""

    correct: Mapping[str, Correct]
    settings: Mapping[str, Any]


def paired_rows(run_dir: Path, baseline: str) -> list[dict[str, Any]]:
    """Return a row for each network and agent of a run, the ``baseline`` agent's first.

    A row has accuracies on the test images, one a seed, their mean, and the mean differences from
    the baseline (``null`` in its own row) and from the dense network, each with 95% intervals.
    Raises ``InputError`` where a plan has not been fine-tuned, or not like the others.
    """
    run = RunFolder.open(run_dir)
    if baseline not in run.config.agents:
        known = ", ".join(run.config.agents)
        raise InputError(
            f"--paired {baseline!r} is no agent of {str(run_dir)!r}, which has {known}"
        )
    agents = sorted(run.config.agents, key=lambda name: name != baseline)
    begun = any((_folder(one) / REPORT).is_file() for one in run.searches)
    again = f"amc finetune {run_dir}" + (" --resume" if begun else "")
    tested = {one.name: _tested(one, again) for one in run.searches}
    _check_alike(list(tested.values()), run_dir)
    rows = []
    for network in NETWORKS:
        found = {agent: _stacked(tested, agent, run.config.seeds, network) for agent in agents}
        for agent, correct in found.items():
            dense = _stacked(tested, agent, run.config.seeds, "dense")
            ours = None if agent == baseline else paired_difference(correct, found[baseline])
            rows.append(
                {
                    "run_dir": str(run_dir),
                    "network": network,
                    "agent": agent,
                    "baseline": baseline,
                    "seeds": list(run.config.seeds),
                    "test_images": correct.shape[1],
                    "accuracies": correct.mean(1).tolist(),
                    "accuracy": float(correct.mean()),
                    "dense_accuracy": float(dense.mean()),
                    "from_baseline": None if ours is None else asdict(ours),
                    "from_dense": asdict(paired_difference(correct, dense)),
                }
            )
    return rows


def _stacked(
    tested: Mapping[str, _Tested], agent: str, seeds: Sequence[int], network: str
) -> Correct:
    """Return which images one network of an agent's plans gets right, bool ``[seeds, images]``."""
    return np.stack([tested[f"{agent}-s{seed}"].correct[network] for seed in seeds])


def _folder(search: Search) -> Path:
    return folder_beside(search.folder / "plan.json")


def _tested(search: Search, again: str) -> _Tested:
    """Return what the fine-tuning of a search's winner left; ``InputError`` where it left none.

    ``again`` is the command that makes up for it.
    """
    path, folder = search.folder / "plan.json", _folder(search)
    plan = read_plan(path)
    if not (folder / REPORT).is_file():
        raise InputError(f"{str(path)!r} has not been fine-tuned; do so with: {again}")
    report = read_report(folder / REPORT)
    if read_plan(folder / "plan.json").plan.digest != plan.plan.digest:
        raise InputError(
            f"{str(folder)!r} is the fine-tuning of another plan than {str(path)!r}; remove the "
            f"folder, then: {again}"
        )
    if not (folder / TEST_CORRECT).is_file():
        raise InputError(
            f"{str(folder)!r} has no {TEST_CORRECT}, as its score is not an accuracy, there are no "
            "test images, or an earlier version wrote it; such plans cannot be compared in pairs"
        )
    correct = read_correctness(folder / TEST_CORRECT)
    names = {"dense": "dense", "finetuned": "finetuned"}
    names |= {"searched": searched_as(plan), "recovered": recovered_as(plan)}
    for key in names.values():
        if key not in correct:
            raise InputError(
                f"{str(folder / TEST_CORRECT)!r} has no images of {key}, which its plan asks for; "
                f"remove the folder, then: {again}"
            )
    settings = {**report["identity"]["settings"], "seed": None}
    data = {"data": report["identity"]["data"], "images": len(correct["dense"])}
    return _Tested({name: correct[key] for name, key in names.items()}, settings | data)


def _check_alike(tested: Sequence[_Tested], run_dir: Path) -> None:
    """Raise ``InputError`` unless all were fine-tuned in the same way, on the same images."""
    first = tested[0].settings
    for other in tested[1:]:
        for key in {**first, **other.settings}:
            mine, value = first.get(key), other.settings.get(key)
            if mine != value:
                raise InputError(
                    f"the plans of {str(run_dir)!r} were not fine-tuned alike: {dotted([key])} is "
                    f"{shown(mine)} and {shown(value)}; remove the folders of one kind, "
                    f"then: amc finetune {run_dir} --resume"
                )
