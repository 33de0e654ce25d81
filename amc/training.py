"""One training loop for all that trains: the zoo's recipes, short-term and final fine-tuning."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.data import Data, shift_and_flip
from amc.sr_ste import MovingZeros

BATCH = 250


@dataclass(frozen=True)
class Schedule:
    """Stochastic gradient descent with momentum 0.9, of Nesterov's kind or plain.

    ``steps`` batches of ``batch_size`` examples; the rate rises linearly over ``warmup_steps`` to
    ``learning_rate``, then falls to 0 by a half cosine, or stays without ``cosine``.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    augment: bool = False
    nesterov: bool = True
    cosine: bool = True


@dataclass(frozen=True)
class Distillation:
    """Knowledge distillation (Hinton et al., arXiv:1503.02531) from a teacher's outputs.

    The loss is ``1 - weight`` times that of the labels, and ``weight * temperature**2`` times the
    Kullback-Leibler divergence from the teacher, both outputs divided by ``temperature`` first.
    ``outputs``, ``[N, K]`` of all training examples, stand in for running the teacher on batches;
    they need examples that are not augmented.
    """

    teacher: nn.Module
    weight: float
    temperature: float
    outputs: Tensor | None = None

    @staticmethod
    def of(
        teacher: nn.Module, data: Data, weight: float, temperature: float, augment: bool
    ) -> Distillation:
        """Return the distillation, with the teacher run on all of ``data`` once where it may be."""
        if augment:
            return Distillation(teacher, weight, temperature)
        with torch.no_grad():
            outputs = torch.cat([teacher(*batch.inputs) for batch in data.batches(BATCH)])
        return Distillation(teacher, weight, temperature, outputs)

    def loss(
        self, hard: Tensor, outputs: Tensor, inputs: tuple[Tensor, ...], index: Tensor
    ) -> Tensor:
        """Return the loss of a batch; ``index`` are its positions, ``hard`` its labels' loss."""
        if self.outputs is not None:
            wanted = self.outputs[index]
        else:
            with torch.no_grad():
                wanted = self.teacher(*inputs)
        soft = _divergence(outputs / self.temperature, wanted / self.temperature)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * soft


class Trainer:
    """Trains ``network`` in place on ``data``, one step at a time.

    ``data.labels`` are class indices ``[N]``, for the cross-entropy, or the dense network's outputs
    ``[N, K]``, for the Kullback-Leibler divergence. The order of examples and the augmentation
    depend on ``seed`` alone. ``l1`` times the sum of absolute weights of kernels and matrices is
    added to what is minimised, as ``schedule.weight_decay`` is to the gradient of every parameter;
    the losses that are returned leave both out. The weights of layers named in ``sparse`` that are
    0 at the first step stay 0. With ``moving`` zeros of layers the loss is that of the pruned
    weights, while dense ones are trained; ``settle`` prunes them at the end.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Data,
        schedule: Schedule,
        seed: int,
        distillation: Distillation | None = None,
        l1: float = 0.0,
        sparse: Collection[str] = (),
        moving: MovingZeros | None = None,
    ) -> None:
        self._moving = moving
        self.network, self.steps_done = network, 0
        self._sparse, self._masks = sparse, dict[str, Tensor]()
        self._data, self._schedule = data, schedule
        self._distillation, self._l1 = distillation, l1
        self._generator = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            lr=schedule.learning_rate,
            momentum=0.9,
            nesterov=schedule.nesterov,
            weight_decay=schedule.weight_decay,
        )
        self._order = torch.empty(0, dtype=torch.int64)
        self._batch_size = min(schedule.batch_size, len(data))
        network.train()

    def step(self) -> Tensor:
        """Take one step, for which the network must be in training mode; return its loss."""
        schedule, generator = self._schedule, self._generator
        if len(self._masks) < len(self._sparse):
            self._masks = {name: self._weight(name) != 0 for name in self._sparse}
        if len(self._order) < self._batch_size:
            self._order = torch.randperm(len(self._data), generator=generator)
        index = self._order[: self._batch_size]
        batch, self._order = self._data[index], self._order[self._batch_size :]
        inputs = shift_and_flip(batch.inputs, generator) if schedule.augment else batch.inputs
        for group in self._optimizer.param_groups:
            group["lr"] = _learning_rate(schedule, self.steps_done)
        self._optimizer.zero_grad()
        assert batch.labels is not None
        with self.as_pruned():
            outputs = self.network(*inputs)
            loss = loss_of(outputs, batch.labels)
            if self._distillation is not None:
                loss = self._distillation.loss(loss, outputs, inputs, index)
            loss.backward()
        if self._moving is not None:
            self._moving.refine()
        if self._l1:
            self._shrink()
        self._optimizer.step()
        for name, mask in self._masks.items():
            self._weight(name).mul_(mask)
        self.steps_done += 1
        return loss.detach()

    def as_pruned(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the network has the weights that it would be left with now."""
        return contextlib.nullcontext() if self._moving is None else self._moving.pruned()

    def settle(self) -> None:
        """Leave the network with its pruned weights; no step may follow."""
        if self._moving is not None:
            self._moving.settle()

    def _weight(self, layer: str) -> Tensor:
        weight = self.network.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def _shrink(self) -> None:
        for parameter in self.network.parameters():
            if parameter.dim() > 1 and parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=self._l1)

    def state(self) -> dict[str, Tensor]:
        """Return all that the steps to come depend on but ``steps_done``, as tensors by name."""
        found = {"order": self._order, "generator": self._generator.get_state()}
        found |= {f"network.{name}": t for name, t in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum.{name}"] = momentum
        return {name: t.detach().contiguous().clone() for name, t in found.items()}

    def load(self, state: Mapping[str, Tensor], steps_done: int) -> None:
        """Go back to a ``state`` after ``steps_done``; what follows is the same, bit for bit."""
        order = state["order"]
        if order.dtype != torch.int64 or order.dim() != 1:
            raise ValueError("order must list examples")
        if len(order) and not 0 <= int(order.min()) <= int(order.max()) < len(self._data):
            raise ValueError(f"order names examples beyond the {len(self._data)} there are")
        self.steps_done, self._order = steps_done, order
        self._masks.clear()
        self._generator.set_state(state["generator"])
        self.network.load_state_dict(
            {name: state[f"network.{name}"] for name in self.network.state_dict()}
        )
        for name, parameter in self.network.named_parameters():
            self._optimizer.state[parameter].clear()
            if (momentum := state.get(f"momentum.{name}")) is not None:
                # In the layout of the parameter, as rounding may depend on it.
                own = torch.empty_like(parameter.detach()).copy_(momentum)
                self._optimizer.state[parameter]["momentum_buffer"] = own


def fit(
    network: nn.Module,
    data: Data,
    schedule: Schedule,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    sparse: Collection[str] = (),
) -> None:
    """Train ``network`` in place on ``data`` with a ``Trainer``, and leave it in evaluation mode.

    ``on_step`` receives the step, from 1, and the batch's loss; zeros of ``sparse`` layers stay.
    """
    trainer = Trainer(network, data, schedule, seed, sparse=sparse)
    while trainer.steps_done < schedule.steps:
        loss = trainer.step()
        if on_step is not None:
            on_step(trainer.steps_done, float(loss))
    network.eval()


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of a batch; see ``Trainer`` for what labels may be."""
    if labels.dtype.is_floating_point:
        return _divergence(outputs, labels)
    return F.cross_entropy(outputs, labels)


def _divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    log_p, log_q = F.log_softmax(outputs, -1), F.log_softmax(wanted, -1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def _learning_rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    if not schedule.cosine:
        return schedule.learning_rate
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
