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


class Scoring(Protocol):
    """How networks are scored: an ``EvaluationPart`` of a plan, or a configuration."""

    @property
    def fast_scoring(self) -> bool:
        """Whether by ``amc.scoring``'s forward pass."""

    @property
    def fold_batch_norm(self) -> bool:
        """Whether BatchNorm is folded first."""


def scorer(how: Scoring, task: LoadedTask, groups: Sequence[ChannelGroup]) -> Scorer:
    """Return what scores networks of the task as ``how`` says, a plan's ``evaluation`` mostly.

    Its answer is in the task's unit; NaN where outputs are not finite.
    """
    example = task.search[:2].inputs
    forward = ForwardPasses(
        task.network, groups, example, fast=how.fast_scoring, fold=how.fold_batch_norm
    )

    def score_of(network: nn.Module, data: Data, function: Score = task.score) -> float:
        return score(forward.of(network), data, function)

    return score_of
