"""The gradient step written out is stable-baselines3's own; walks remember what they priced."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.logger import Logger

from agents.ddpg import DDPGAgent
from agents.ddpg_learner import AMCDDPG
from amc.search_task import seed_everything
from envs.vector import PruningVecEnv
from envs.walk import Course, Walk
from tests.toy import toy_task


def learner(gamma: float) -> AMCDDPG:
    """Return a learner whose replay buffer holds random transitions."""
    seed_everything(0)
    task = toy_task(evaluations=40, walks=2)
    agent = DDPGAgent(hidden=32, batch_size=16, gamma=gamma, tau=0.1)
    model = agent.model(task, PruningVecEnv(task, agent.convention))
    buffer, rng = model.replay_buffer, np.random.default_rng(1)
    assert buffer is not None
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[:] = rng.random(array.shape)
    buffer.dones[:] = rng.random(buffer.dones.shape) < 0.3
    buffer.full = True
    return model


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gradient_steps_are_stable_baselines3s_bit_for_bit(gamma: float) -> None:
    own, reference = learner(gamma), learner(gamma)
    start = copy.deepcopy(own.policy.state_dict())
    np.random.seed(3)
    own.train(30, 16)
    np.random.seed(3)
    reference.set_logger(Logger(None, []))
    DDPG.train(reference, 30, 16)
    assert own._n_updates == reference._n_updates == 30
    expected = reference.policy.state_dict()
    for name, value in own.policy.state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert not torch.equal(value, start[name]), name
    for mine, theirs in zip(
        (own.actor.optimizer, own.critic.optimizer),
        (reference.actor.optimizer, reference.critic.optimizer),
        strict=True,
    ):
        for a, b in zip(mine.state.values(), theirs.state.values(), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_training_leaves_denormal_numbers_as_they_were() -> None:
    learner(1.0).train(1, 16)
    assert float(torch.tensor(1e-30) * torch.tensor(1e-10)) > 0


def test_walks_that_begin_alike_price_their_beginning_once() -> None:
    course = Course(toy_task(evaluations=4))
    priced, costs = [], course.costs

    def counted(widths: np.ndarray) -> np.ndarray:
        priced.append(len(widths))
        return costs(widths)

    course.costs = counted
    first, again = Walk(course), Walk(course)
    while not first.done:
        first.step((0.5,))
    assert priced
    priced.clear()
    while not again.done:
        again.step((0.5,))
    assert again.widths == first.widths
    assert not priced
    assert np.array_equal(again.observation(), first.observation())
