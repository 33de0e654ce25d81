"""``crossq``: SAC without target networks, its critics normalised, from sb3_contrib.

Bhatt et al., ICLR 2024, arXiv:1902.05605: states and actions of now and of the next step pass the
critics in one batch, so that batch renormalisation sees both, and the next step's values are the
target (section 3); the actor and the temperature move every ``policy_delay`` steps. Deviations,
beside those of ``sac``:

- Critics of 300 units, not 2048 (sb3_contrib: 1024), for the sake of time; ``critic_hidden``.
- Both learning rates are 1e-3, as published: at ddpg's 1e-4 the actor, which moves every third step
  only, does not get far in a search.
- Running statistics follow by 0.01 a step (``momentum``), as published. In a short search they have
  hardly settled when it ends; batches are normalised by their own meanwhile, since the
  renormalisation begins after 100,000 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sb3_contrib import CrossQ

from agents.off_policy import EntropyAgent
from agents.off_policy_learner import EpisodeLearner
from amc.search_task import SearchTask
from envs.vector import PruningVecEnv


class EpisodeCrossQ(EpisodeLearner, CrossQ):
    """The CrossQ of sb3_contrib with exploration by episode."""

    stochastic = True


@dataclass(kw_only=True)
class CrossQAgent(EntropyAgent):
    """CrossQ on the episodes of ``ddpg``; options as in ``EntropyAgent`` and above."""

    name: ClassVar[str] = "crossq"
    packages: ClassVar[tuple[str, ...]] = ("sb3-contrib",)
    actor_lr: float = 1e-3
    critic_hidden: int = 300
    policy_delay: int = 3
    momentum: float = 0.01

    def model(self, task: SearchTask, env: PruningVecEnv) -> EpisodeLearner:
        """Return the learner for one search, not yet trained."""
        return self.made(
            EpisodeCrossQ,
            env,
            (self.actor_lr, self.critic_lr, self.temperature_lr),
            {
                "net_arch": {"pi": [self.hidden] * 2, "qf": [self.critic_hidden] * 2},
                "optimizer_kwargs": {"fused": True, "betas": (0.5, 0.999)},
                "batch_norm_momentum": self.momentum,
            },
            policy_delay=self.policy_delay,
            **self.entropy_options(env),
        )
