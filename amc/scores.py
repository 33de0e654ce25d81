"""What a search scores a plan by: the task's own score, or a smooth one; on all images, or racing.

Smooth scores tell plans apart on fewer images than accuracy does (experiments/LOG.md). They are
means over the images of a value in [0, 1], higher is better, and read outputs ``[B, K]`` as logits:

- ``cross_entropy``: 1 - min(CE, ln 100) / ln 100 with CE in nats: 1 where the label's class has
  probability 1, 0 where it has 1% or less. Capped, so that no single image decides.
- ``agreement``: how much of its probability the plan's network distributes as the dense one does,
  the sum over classes of the smaller of the two (1 less their total variation). Without labels.

Where labels are another network's outputs, its largest one is the class, as for accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from amc.config_sections import ScoreName
from amc.data import Data
from amc.errors import InputError
from amc.failures import as_score
from amc.racing import Racing
from amc.task import LoadedTask, Score, accuracy, right

Forward = Callable[..., Tensor]
LARGEST_CROSS_ENTROPY = math.log(100.0)  # nats


@dataclass(frozen=True)
class Scored:
    """A plan's ``score``, NaN where outputs were not finite, and the task's own, where another.

    Racing may have ended after the first ``stopped_after`` images: both are then of those alone.
    """

    score: float
    task_score: float | None = None
    stopped_after: int | None = None

    @property
    def in_task_unit(self) -> float:
        """The task's own score."""
        return self.score if self.task_score is None else self.task_score


class SearchScore:
    """Scores networks on the search images, in the order that they come in.

    ``values(outputs, targets)`` is float64 ``[B]`` in [0, 1]. For agreement ``dense`` is run once
    on all images, here.
    """

    def __init__(
        self,
        name: ScoreName,
        search: Data,
        task_score: Score,
        racing: Racing | None,
        dense: Forward,
        batch_size: int,
    ) -> None:
        self._data, self._task_score, self._racing = search, task_score, racing
        self._batch_size, self._own = batch_size, name == "task"
        self._values = {"task": right, "cross_entropy": likelihood, "agreement": overlap}[name]
        assert search.labels is not None
        self._targets = search.labels
        if name == "agreement":
            batches = search.batches(batch_size)
            with torch.inference_mode():
                self._targets = torch.cat([dense(*batch.inputs) for batch in batches])

    @torch.inference_mode()
    def __call__(self, network: Forward, needed: float | None = None) -> Scored:
        """Return the score; with ``needed``, end once it is too low for that to be the score."""
        images, total, task_total = len(self._data), 0.0, 0.0
        seen = torch.empty(images, dtype=torch.float64)
        done = 0
        for batch in self._data.batches(self._batch_size):
            outputs = network(*batch.inputs)
            if not bool(torch.isfinite(outputs).all()):
                return Scored(math.nan)
            assert batch.labels is not None
            start, done = done, done + len(batch)
            values = self._values(outputs, self._targets[start:done])
            seen[start:done] = values
            total += float(values.mean()) * len(batch)
            if not self._own:
                task_total += as_score(self._task_score(outputs, batch.labels)) * len(batch)
            if needed is not None and done < images and self._lost(seen[:done], needed):
                break
        task_score = None if self._own else task_total / done
        return Scored(total / done, task_score, done if done < images else None)

    def _lost(self, seen: Tensor, needed: float) -> bool:
        assert self._racing is not None
        return self._racing.lost(seen.numpy(), len(self._data), needed)


def likelihood(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return each example's value of ``cross_entropy``, float64 ``[B]`` in [0, 1]."""
    logits = outputs.double().log_softmax(-1)
    classes = labels.argmax(-1) if labels.dtype.is_floating_point else labels
    losses = -logits.gather(-1, classes[:, None])[:, 0]
    return 1.0 - losses.clamp(max=LARGEST_CROSS_ENTROPY) / LARGEST_CROSS_ENTROPY


def overlap(outputs: Tensor, dense_outputs: Tensor) -> Tensor:
    """Return each example's value of ``agreement``, float64 ``[B]`` in [0, 1]."""
    probabilities = (t.double().softmax(-1) for t in (outputs, dense_outputs))
    return torch.minimum(*probabilities).sum(-1).clamp(max=1.0)


def can_race(task: LoadedTask, name: ScoreName) -> bool:
    """Return whether the score is known to be a mean over the images of values in [0, 1]."""
    return name != "task" or task.score is accuracy


def check_score(task: LoadedTask, name: ScoreName, racing: bool) -> None:
    """Raise ``InputError`` where the task cannot be scored so, or its scores cannot race."""
    if name != "task":
        _check_smooth(task, name)
    elif racing and not can_race(task, name):
        raise InputError(
            f"racing needs a score that is a mean of values in [0, 1], but task {task.name!r} "
            f"brings its own, {task.score_name!r}; set score to 'cross_entropy' or 'agreement', "
            "or racing to false"
        )


def _check_smooth(task: LoadedTask, name: ScoreName) -> None:
    few = task.search[:2]
    with torch.inference_mode():
        outputs = task.network(*few.inputs)
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise InputError(
            f"score {name!r} reads outputs [batch, classes], but the network of task "
            f"{task.name!r} returns {list(outputs.shape)}; set score to 'task'"
        )
    labels = task.search.labels
    assert labels is not None
    if name == "agreement" or (labels.dtype.is_floating_point and labels.dim() == 2):
        return
    whole = not labels.dtype.is_floating_point and labels.dim() == 1
    if not whole or not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
        raise InputError(
            f"score 'cross_entropy' needs labels that are classes from 0 to {outputs.shape[1] - 1},"
            f" but those of task {task.name!r} are not; set score to 'agreement' or 'task'"
        )
