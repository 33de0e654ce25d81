"""SR-STE: the loss of the pruned weights, gradients to all, and a pull on what is pruned."""

from __future__ import annotations

import torch
from torch import nn

from amc.data import Data
from amc.kernels.patterns import first_violation, keep_largest
from amc.sr_ste import DECAY, MovingZeros
from amc.training import Schedule, Trainer

SCHEDULE = Schedule(30, batch_size=20, learning_rate=0.05, weight_decay=0.0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 8, generator=generator)
    return Data(inputs, (inputs[:, :3] - inputs[:, 3:6]).argmax(1))


def test_a_step_uses_pruned_weights_and_trains_the_dense_ones() -> None:
    plain, moving = network(), network()
    layer = moving[0]
    other = plain[0]
    assert isinstance(layer, nn.Linear)
    assert isinstance(other, nn.Linear)
    before = layer.weight.detach().clone()
    pruned = keep_largest(before, "2:4")
    trainer = Trainer(moving, data(), SCHEDULE, 0, moving=MovingZeros(moving, {"0": "2:4"}))
    loss = trainer.step()
    other.weight.data.copy_(pruned)
    expected = Trainer(plain, data(), SCHEDULE, 0)
    torch.testing.assert_close(loss, expected.step())
    gone = pruned == 0
    straight_through = other.weight.grad
    assert straight_through is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, straight_through + DECAY * before * gone)
    assert first_violation(layer.weight.detach(), "2:4") is not None, "dense weights are trained"


def test_zeros_move_and_are_in_the_pattern_at_the_end() -> None:
    moving = network()
    layer = moving[0]
    assert isinstance(layer, nn.Linear)
    before = keep_largest(layer.weight.detach(), "1:4") != 0
    zeros = MovingZeros(moving, {"0": "1:4"})
    trainer = Trainer(moving, data(), SCHEDULE, 0, moving=zeros)
    losses = [float(trainer.step()) for _ in range(SCHEDULE.steps)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    with trainer.as_pruned():
        inside = layer.weight.detach().clone()
        assert first_violation(inside, "1:4") is None
    assert not torch.equal(layer.weight, inside)
    trainer.settle()
    assert torch.equal(layer.weight, inside)
    assert not torch.equal(inside != 0, before), "some weights came back"
    assert torch.isfinite(layer.weight).all()


def test_without_moving_zeros_nothing_changes() -> None:
    first, second = network(), network()
    for its in (first, second):
        trainer = Trainer(its, data(), SCHEDULE, 0)
        trainer.step()
        with trainer.as_pruned():
            pass
        trainer.settle()
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
