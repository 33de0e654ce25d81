"""``sac``: soft actor-critic with a learned temperature, from stable-baselines3.

Haarnoja et al., ICML 2018, arXiv:1801.01290, and arXiv:1812.05905: a policy that draws the tanh of
a normal distribution is led to reward and entropy, by the smaller of two critics; the weight of the
entropy is learned so that it comes to ``target_entropy`` (equation 18 of the second). Deviations:

- Episodes, reward, discount, demonstrations, warm-up and gradient steps are those of ``ddpg``, see
  ``agents.off_policy``; so are by default the 300-300 units, learning rates, ``tau`` and batches of
  64 (published: 256-256, 3e-4 for all, 0.005, 256; discount 0.99; a gradient step a transition).
- The temperature starts at 0.01, not 1: see ``agents.off_policy.EntropyAgent``.
- The smaller of two targets errs to the low side, and without a discount that adds up over the
  sites ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stable_baselines3 import SAC

from agents.off_policy import EntropyAgent
from agents.off_policy_learner import EpisodeLearner
from amc.search_task import SearchTask
from envs.vector import PruningVecEnv


class EpisodeSAC(EpisodeLearner, SAC):
    """The SAC of stable-baselines3 with exploration by episode."""

    stochastic = True


@dataclass(kw_only=True)
class SACAgent(EntropyAgent):
    """SAC on the episodes of ``ddpg``; options as in ``OffPolicyAgent`` and ``EntropyAgent``."""

    name: ClassVar[str] = "sac"
    tau: float = 0.01

    def model(self, task: SearchTask, env: PruningVecEnv) -> EpisodeLearner:
        """Return the learner for one search, not yet trained."""
        rates = self.actor_lr, self.critic_lr, self.temperature_lr
        return self.made(EpisodeSAC, env, rates, tau=self.tau, **self.entropy_options(env))
