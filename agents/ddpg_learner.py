"""What AMC's DDPG adds to stable-baselines3's: exploration by episode, and its gradient step."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import DDPG

from agents.ddpg_update import Update
from agents.off_policy_learner import (
    EpisodeLearner,
    EpisodeReplayBuffer,
    Schedule,
    truncated_normal,
    without_denormals,
)

__all__ = ["AMCDDPG", "EpisodeReplayBuffer", "Schedule", "truncated_normal"]


class AMCDDPG(EpisodeLearner, DDPG):
    """Stable-baselines3's DDPG with AMC's exploration and a learning rate a network."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        self._update = Update(self.policy, self.gamma, self.tau)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take so many gradient steps, each on transitions drawn from the replay buffer."""
        assert self.replay_buffer is not None
        with without_denormals():
            for _ in range(gradient_steps):
                self._update.step(self.replay_buffer.sample(batch_size))
        self._n_updates += gradient_steps
