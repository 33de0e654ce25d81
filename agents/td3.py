"""``td3``: DDPG with two critics, a delayed actor and a smoothed target, from stable-baselines3.

Fujimoto et al., ICML 2018, arXiv:1802.09477: the target is r + min Q'(s', mu'(s') + noise), the
noise normal with deviation ``target_noise`` and cut at ``target_noise_clip``, both on actions in
[-1, 1] (algorithm 1); actor and targets move every ``policy_delay`` steps.
Deviations:

- Episodes, reward, discount, demonstrations, warm-up and gradient steps are those of ``ddpg``, see
  ``agents.off_policy``; so are by default the 300-300 units, learning rates, ``tau`` and batches of
  64 (published: 400-300, 1e-3 for both, 0.005, 100; discount 0.99; a gradient step a transition).
- Exploration is ddpg's: truncated-normal noise that shrinks episode by episode from ``sigma0`` to
  ``sigma_final`` of the range of actions. The published one stays at 0.1 on [-1, 1].
- The smaller of two targets errs to the low side, and without a discount that adds up over the
  sites ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stable_baselines3 import TD3

from agents.off_policy import OffPolicyAgent
from agents.off_policy_learner import EpisodeLearner, Schedule
from amc.search_task import SearchTask
from envs.vector import PruningVecEnv


class EpisodeTD3(EpisodeLearner, TD3):
    """The TD3 of stable-baselines3 with exploration by episode."""


@dataclass(kw_only=True)
class TD3Agent(OffPolicyAgent):
    """TD3 on the episodes of ``ddpg``; options as in ``OffPolicyAgent`` and above."""

    name: ClassVar[str] = "td3"
    tau: float = 0.01
    policy_delay: int = 2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    sigma0: float = 0.5
    sigma_final: float = 0.05

    def schedule(self, horizon: int) -> Schedule:
        """Return the exploration of a search laid out for ``horizon`` episodes, as ``ddpg``'s."""
        return Schedule.laid_out(horizon, self.warmup_episodes, self.sigma0, None, self.sigma_final)

    def model(self, task: SearchTask, env: PruningVecEnv) -> EpisodeLearner:
        """Return the learner for one search, not yet trained."""
        return self.made(
            EpisodeTD3,
            env,
            (self.actor_lr, self.critic_lr),
            tau=self.tau,
            policy_delay=self.policy_delay,
            target_policy_noise=self.target_noise,
            target_noise_clip=self.target_noise_clip,
        )
