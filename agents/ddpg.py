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

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from agents.analytic import demonstration
from agents.base import Agent, require_choice, require_flag, require_number
from agents.ddpg_learner import AMCDDPG, EpisodeReplayBuffer, Schedule
from agents.uniform import uniform_widths
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


class _StopWhenSpent(BaseCallback):
    """Ends ``learn()`` after the last evaluation, before the gradient steps nobody would use."""

    def __init__(self, task: SearchTask) -> None:
        super().__init__()
        self.task = task

    def _on_step(self) -> bool:
        return self.task.remaining > 0


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
        """Return the exploration of a search laid out for ``horizon`` episodes.

        Warm-up is a quarter (the paper's 100 of 400), at most the published 100; the decay is the
        published 0.95, or faster where that would not end at ``sigma_final``. From 60 episodes on
        it is the published one.
        """
        warmup = self.warmup_episodes
        if warmup is None:
            warmup = min(100, -(-horizon // 4))
        decay = self.sigma_decay
        if decay is None:
            decay = min(0.95, (self.sigma_final / self.sigma0) ** (1 / max(1, horizon - warmup)))
        return Schedule(warmup, self.sigma0, decay)

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where no walk can end within the budget."""
        Course(task, self.convention)

    def search(self, task: SearchTask) -> None:
        """Learn until the evaluations are spent; say so where none would be left to learn from."""
        warmup = self.schedule(task.horizon).warmup_episodes
        if warmup >= task.horizon:
            task.notify(
                f"all of its {task.horizon} episodes are random, as the first {warmup} are; raise "
                "evaluations or lower agents.ddpg.warmup_episodes"
            )
        with one_thread():
            env = PruningVecEnv(task, self.convention)
            plans = [
                uniform_widths(task) if self.demonstrate_uniform else None,
                demonstration(task) if self.demonstrate_analytic else None,
            ]
            env.demonstrate(list(dict.fromkeys(plan for plan in plans if plan is not None)))
            model = self.model(task, env)
            model.set_logger(Logger(None, []))  # its own would leave a folder among temporary files
            model.learn(2**60, callback=_StopWhenSpent(task), log_interval=None)  # type: ignore[arg-type]

    def model(self, task: SearchTask, env: PruningVecEnv) -> AMCDDPG:
        """Return the learner for one search, not yet trained."""
        length, walks = len(env.course.steps), task.walks
        schedule = self.schedule(task.horizon)
        return AMCDDPG(
            env,
            schedule,
            (self.actor_lr, self.critic_lr),
            self.redraws,
            buffer_size=-(-self.buffer_episodes // walks) * walks * length,
            learning_starts=schedule.warmup_episodes * length,
            batch_size=self.batch_size,
            tau=self.tau,
            gamma=self.gamma,
            train_freq=(length, "step"),
            gradient_steps=-1,  # as many as steps taken: L for each of the finished episodes
            replay_buffer_class=EpisodeReplayBuffer,
            replay_buffer_kwargs={
                "length": length,
                "rate": self.baseline_rate,
                "store_executed": self.store_executed,
            },
            policy_kwargs={
                "net_arch": [self.hidden, self.hidden],
                "optimizer_kwargs": {"fused": True},
            },
            seed=task.seed % 2**32,
            device="cpu",
        )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, and put the number back at the end.

    These networks are too small for more to gain anything.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
