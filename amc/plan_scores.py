"""Scoring a network as a plan says its scores come about: one function for all who do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from amc.coupling import ChannelGroup
from amc.data import Data
from amc.forward import ForwardPasses
from amc.plan_file import PlanFile
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


def scorer(plan: PlanFile, task: LoadedTask, groups: Sequence[ChannelGroup]) -> Scorer:
    """Return what scores networks of the task as the plan's ``evaluation`` says.

    Its answer is in the task's unit; NaN where outputs are not finite.
    """
    how = plan.evaluation
    example = task.search[:2].inputs
    forward = ForwardPasses(
        task.network, groups, example, fast=how.fast_scoring, fold=how.fold_batch_norm
    )

    def score_of(network: nn.Module, data: Data, function: Score = task.score) -> float:
        return score(forward.of(network), data, function)

    return score_of
