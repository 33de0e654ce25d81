"""Scoring a network as a plan says its scores come about: one function for all who do."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from amc.data import Data
from amc.folding import folded, folds_of
from amc.plan_file import PlanFile
from amc.scoring.program import Forward, Program
from amc.task import LoadedTask, Score
from amc.worker import score


class Scorer(Protocol):
    """Scores a network on data, by the task's own function unless another is given."""

    def __call__(self, network: nn.Module, data: Data, function: Score = ...) -> float:
        """Return the mean score, NaN where outputs are not finite."""
        ...


def searched(plan: PlanFile, task: LoadedTask) -> Data:
    """Return the examples of the search split that the plan was scored on."""
    return task.search[: plan.evaluation.search_images or len(task.search)]


def scorer(plan: PlanFile, task: LoadedTask) -> Scorer:
    """Return what scores networks of the task as the plan's ``evaluation`` says.

    Its answer is in the task's unit; NaN where outputs are not finite.
    """
    example = task.search[:2].inputs

    def score_of(network: nn.Module, data: Data, function: Score = task.score) -> float:
        return score(_forward(plan, task.network, network, example), data, function)

    return score_of


def _forward(
    plan: PlanFile, dense: nn.Module, network: nn.Module, example: tuple[Tensor, ...]
) -> Forward:
    """Return the forward pass that the plan's scores come from."""
    fold = plan.evaluation.fold_batch_norm
    program = Program.of(dense, network, example) if plan.evaluation.fast_scoring else None
    if program is not None:
        return program.bind(network, fold)
    return folded(network, folds_of(dense, example)) if fold else network
