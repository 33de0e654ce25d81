"""``tqc``: SAC with truncated quantile critics, from sb3_contrib.

Kuznetsov et al., ICML 2020, arXiv:2005.04269: each of ``critics`` networks gives ``quantiles`` of
the return; of all of them together the largest ``dropped`` for each network are left out of the
target. Deviations, beside those of ``sac``:

- Two critics of 300-300 units, sb3_contrib's number; published are five of 512-512-512. Five of
  300-300 take 25 instead of 10 s on one core for 100 episodes of 20 sites.
- The loss is the mean over the quantiles, as in sb3_contrib; published is their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sb3_contrib import TQC

from agents.base import require_number
from agents.off_policy import EntropyAgent
from agents.off_policy_learner import EpisodeLearner
from amc.search_task import SearchTask
from envs.vector import PruningVecEnv


class EpisodeTQC(EpisodeLearner, TQC):
    """The TQC of sb3_contrib with exploration by episode."""

    stochastic = True


@dataclass(kw_only=True)
class TQCAgent(EntropyAgent):
    """TQC on the episodes of ``ddpg``; options as in ``SACAgent`` and above."""

    name: ClassVar[str] = "tqc"
    packages: ClassVar[tuple[str, ...]] = ("sb3-contrib",)
    tau: float = 0.01
    critics: int = 2
    quantiles: int = 25
    dropped: int = 2

    def __post_init__(self) -> None:
        """Refuse values out of range, and a target of which nothing would be left."""
        super().__post_init__()
        require_number("agents.tqc.dropped", self.dropped, 0, self.quantiles - 1, whole=True)

    def model(self, task: SearchTask, env: PruningVecEnv) -> EpisodeLearner:
        """Return the learner for one search, not yet trained."""
        return self.made(
            EpisodeTQC,
            env,
            (self.actor_lr, self.critic_lr, self.temperature_lr),
            {"n_critics": self.critics, "n_quantiles": self.quantiles},
            tau=self.tau,
            top_quantiles_to_drop_per_net=self.dropped,
            **self.entropy_options(env),
        )
