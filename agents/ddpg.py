"""``ddpg``: AMC's agent (He et al., ECCV 2018, arXiv:1802.03494, section 3.2 and its code).

As published: deterministic actor-critic with 300-300 hidden units; truncated-normal exploration
around the actor on [0, 1]; uniformly random warm-up; the reward of a finished plan on *every*
transition of its episode, discount 1, less a moving average of sampled rewards; L gradient steps a
finished episode of L sites. The published critic, relu(W_s s + W_a a) -> 300 -> 1, is one linear
layer on (s, a) together, which is what stable-baselines3's critic computes.

``protocol: published`` is the released code's own, with ``walks: 1`` episode by episode. Deviations
of the default, ``adapted``, each an option or forced by the batch:

- The *executed* action is stored, the published code stores the one before clipping and rounding
  (``store_executed``). Of demonstrations it is always the executed one.
- The first episode follows the uniform plan, the second that of the ``analytic`` agent where the
  task has error curves, and their transitions go into the replay buffer, so that the best of a
  search is never below either (``demonstrate_uniform``, ``demonstrate_analytic``).
- ``task.walks`` episodes run side by side with one actor; each has the noise that it would have had
  one after the other, and the gradient steps of all of them follow together.
- An episode that would end at a plan asked for before is drawn again, at most ``redraws`` times.
- The published schedule is laid out for 400 (paper) or 800 (code) episodes; for fewer, see
  ``DDPGAgent.schedule``.
- The released code draws episodes 0 to 100 uniformly, which are 101; here ``warmup_episodes`` are
  drawn so. Networks start as stable-baselines3 initialises them, in both protocols.
- State, action and bounds: ``envs.state.Convention``; the wall holds after rounding: ``envs.walk``.
- The actor's output is tanh on stable-baselines3's [-1, 1], the same family as sigmoid on [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agents.base import Agent, require_choice, require_flag, require_number
from agents.ddpg_learner import AMCDDPG
from agents.off_policy import (
    demonstrations,
    episode_options,
    learn,
    one_thread,
    say_if_all_random,
)
from agents.off_policy_learner import Schedule
from amc.search_task import SearchTask
from envs.state import ACTIONS, STATES, Convention
from envs.vector import PruningVecEnv
from envs.walk import Course

# Where the published protocol and the one for short searches differ; what they share are the
# defaults of ``DDPGAgent``. A schedule of ``None`` follows from the horizon.
PROTOCOLS: Final[dict[str, dict[str, Any]]] = {
    "adapted": {
        "warmup_episodes": None,
        "sigma_decay": None,
        "store_executed": True,
        "demonstrate_uniform": True,
        "demonstrate_analytic": True,
        "redraws": 4,
        "state": "paper",
        "action": "output",
        "lower_bound": 0.0,
    },
    "published": {
        "warmup_episodes": 100,
        "sigma_decay": 0.95,
        "store_executed": False,
        "demonstrate_uniform": False,
        "demonstrate_analytic": False,
        "redraws": 0,
        "state": "released",
        "action": "input",
        "lower_bound": 0.2,
    },
}


# The least value of each option that is a whole number, and of each that is a number up to 1.
WHOLE: Final = {
    "hidden": 1,
    "batch_size": 1,
    "buffer_episodes": 1,
    "warmup_episodes": 0,
    "redraws": 0,
}
UP_TO_ONE: Final = {
    "actor_lr": 0.0,
    "critic_lr": 0.0,
    "gamma": 0.0,
    "tau": 0.0,
    "baseline_rate": 0.0,
    "sigma0": 1e-3,
    "sigma_decay": 1e-3,
    "sigma_final": 1e-6,
    "lower_bound": 0.0,
    "upper_bound": 1e-6,
}
FLAGS: Final = ("store_executed", "demonstrate_uniform", "demonstrate_analytic")


@dataclass(kw_only=True)
class DDPGAgent(Agent):
    """AMC's DDPG behind ``search(task)``; the published constants are the defaults.

    Options of ``None`` are those of the ``protocol``, see ``PROTOCOLS``; ``warmup_episodes`` and
    ``sigma_decay`` of ``adapted`` follow from ``task.horizon``, see ``schedule``. Learning rates
    are Adam's, ``buffer_episodes`` is the published 100 L transitions; ``state``, ``action``,
    ``lower_bound`` and ``upper_bound`` are those of ``envs.state.Convention``.
    """

    protocol: str = "adapted"
    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    gamma: float = 1.0
    tau: float = 0.01
    batch_size: int = 64
    buffer_episodes: int = 100
    warmup_episodes: int | None = None
    sigma0: float = 0.5
    sigma_decay: float | None = None
    sigma_final: float = 0.05
    baseline_rate: float = 0.5
    store_executed: bool | None = None
    demonstrate_uniform: bool | None = None
    demonstrate_analytic: bool | None = None
    redraws: int | None = None
    state: str | None = None
    action: str | None = None
    lower_bound: float | None = None
    upper_bound: float = 1.0

    def __post_init__(self) -> None:
        """Take the protocol's own options where none were given; refuse values out of range."""
        require_choice("agents.ddpg.protocol", self.protocol, tuple(PROTOCOLS))
        for option, value in PROTOCOLS[self.protocol].items():
            if getattr(self, option) is None:
                setattr(self, option, value)
        for option, least in WHOLE.items():
            if (given := getattr(self, option)) is not None:
                require_number(f"agents.ddpg.{option}", given, least, 1e6, whole=True)
        for option, lowest in UP_TO_ONE.items():
            if (given := getattr(self, option)) is not None:
                require_number(f"agents.ddpg.{option}", given, lowest, 1.0)
        for option in FLAGS:
            require_flag(f"agents.ddpg.{option}", getattr(self, option))
        require_choice("agents.ddpg.state", self.state, tuple(STATES))
        require_choice("agents.ddpg.action", self.action, ACTIONS)
        assert self.state is not None
        assert self.action is not None
        assert self.lower_bound is not None
        bounds = self.lower_bound, self.upper_bound
        self.convention = Convention(self.state, self.action, *bounds)

    def schedule(self, horizon: int) -> Schedule:
        """Return the exploration of a search laid out for ``horizon`` episodes."""
        return Schedule.laid_out(
            horizon, self.warmup_episodes, self.sigma0, self.sigma_decay, self.sigma_final
        )

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where no walk can end within the budget."""
        Course(task, self.convention)

    def search(self, task: SearchTask) -> None:
        """Learn until the evaluations are spent; say so where none would be left to learn from."""
        say_if_all_random(task, "ddpg", self.schedule(task.horizon))
        with one_thread():
            env = PruningVecEnv(task, self.convention)
            env.demonstrate(
                demonstrations(task, self.demonstrate_uniform, self.demonstrate_analytic)
            )
            learn(task, self.model(task, env))

    def model(self, task: SearchTask, env: PruningVecEnv) -> AMCDDPG:
        """Return the learner for one search, not yet trained."""
        schedule = self.schedule(task.horizon)
        episodes = self.buffer_episodes, self.baseline_rate, self.store_executed
        return AMCDDPG(
            env,
            schedule,
            (self.actor_lr, self.critic_lr),
            self.redraws,
            **episode_options(env, schedule, *episodes),
            batch_size=self.batch_size,
            tau=self.tau,
            gamma=self.gamma,
            policy_kwargs={
                "net_arch": [self.hidden, self.hidden],
                "optimizer_kwargs": {"fused": True},
            },
        )
