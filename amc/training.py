"""One training loop for all that trains: the zoo's recipes, short-term and final fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.data import Data, shift_and_flip


@dataclass(frozen=True)
class Schedule:
    """Stochastic gradient descent with Nesterov momentum 0.9 and a half-cosine learning rate.

    ``steps`` batches of ``batch_size`` examples; the rate rises linearly over ``warmup_steps``,
    then falls from ``learning_rate`` to 0.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    augment: bool = False


def fit(
    network: nn.Module,
    data: Data,
    schedule: Schedule,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``network`` in place on ``data`` with cross-entropy, and leave it in evaluation mode.

    ``data.labels`` are class indices ``[N]``, or the dense network's outputs ``[N, K]``, to which
    the Kullback-Leibler divergence is then taken. The order of examples and the augmentation depend
    on ``seed`` alone; ``on_step`` receives the step, from 1, and the batch's loss.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=schedule.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=schedule.weight_decay,
    )
    network.train()
    order = torch.empty(0, dtype=torch.int64)
    batch_size = min(schedule.batch_size, len(data))
    for step in range(1, schedule.steps + 1):
        if len(order) < batch_size:
            order = torch.randperm(len(data), generator=generator)
        batch, order = data[order[:batch_size]], order[batch_size:]
        inputs = shift_and_flip(batch.inputs, generator) if schedule.augment else batch.inputs
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(schedule, step - 1)
        optimizer.zero_grad()
        assert batch.labels is not None
        loss = _loss(network(*inputs), batch.labels)
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    network.eval()


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.dtype.is_floating_point:
        log_p, log_q = F.log_softmax(outputs, -1), F.log_softmax(labels, -1)
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return F.cross_entropy(outputs, labels)


def _learning_rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
