"""What ``ddpg``, ``td3``, ``sac``, ``tqc`` and ``crossq`` share, so that only the learner differs.

A finished plan's reward stands on *every* transition of its episode, less a moving average of
sampled rewards; discount 1. The last transition ends the episode, so its target is that reward
alone; before it the target is the reward plus the value of the next state. So after t of L sites
the value is (L - t) times the plan's reward above the average. A soft value has the entropies of
the L - t steps in it as well, so that reward and entropy stay in proportion along a walk. A bias of
the target adds up over the sites ahead, as nothing discounts it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from agents.analytic import demonstration
from agents.base import Agent, require_flag, require_number
from agents.off_policy_learner import EpisodeLearner, EpisodeReplayBuffer, Schedule
from agents.uniform import uniform_widths
from amc.search_task import SearchTask
from envs.vector import PruningVecEnv
from envs.walk import Course

# The least value of each option that is a whole number, and the range of each other.
WHOLE: Final = {
    "hidden": 1,
    "batch_size": 2,
    "buffer_episodes": 1,
    "warmup_episodes": 0,
    "redraws": 0,
    "policy_delay": 1,
    "critics": 1,
    "quantiles": 1,
    "dropped": 0,
    "critic_hidden": 1,
}
RANGES: Final = {
    "actor_lr": (0.0, 1.0),
    "critic_lr": (0.0, 1.0),
    "temperature_lr": (0.0, 1.0),
    "gamma": (0.0, 1.0),
    "tau": (0.0, 1.0),
    "baseline_rate": (0.0, 1.0),
    "sigma0": (1e-3, 1.0),
    "sigma_final": (1e-6, 1.0),
    "target_noise": (0.0, 2.0),
    "target_noise_clip": (0.0, 2.0),
    "temperature": (1e-9, 10.0),
    "target_entropy": (-5.0, 0.69),
    "momentum": (1e-3, 1.0),
}


@dataclass(kw_only=True)
class OffPolicyAgent(Agent):
    """A learner of stable-baselines3 on the episodes of AMC's ``ddpg``.

    ``start``: the first episodes follow the uniform plan and, where the task has error curves, that
    of ``analytic``, and are learned from. ``warmup_episodes`` are drawn uniformly, by default as
    many as in ``Schedule.laid_out``; then the learner explores as its subclass says. All networks
    have two layers of ``hidden`` units; learning rates are Adam's. ``buffer_episodes`` are
    remembered; ``baseline_rate`` is that of the moving average; an episode that would end at a plan
    asked for before is drawn again, at most ``redraws`` times. A subclass has its ``name`` and
    ``model``.
    """

    name: ClassVar[str]
    start: bool = True
    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    gamma: float = 1.0
    batch_size: int = 64
    buffer_episodes: int = 100
    warmup_episodes: int | None = None
    baseline_rate: float = 0.5
    redraws: int = 4

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require_flag(f"agents.{self.name}.start", self.start)
        given = {**vars(self)}
        if self.warmup_episodes is None:
            del given["warmup_episodes"]
        for option, value in given.items():
            if option in WHOLE:
                least = WHOLE[option]
                require_number(f"agents.{self.name}.{option}", value, least, 1e6, whole=True)
            elif option in RANGES:
                require_number(f"agents.{self.name}.{option}", value, *RANGES[option])

    def schedule(self, horizon: int) -> Schedule:
        """Return the exploration of a search laid out for ``horizon`` episodes."""
        return Schedule.laid_out(horizon, self.warmup_episodes, 1.0, 1.0, 1.0)

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where no walk can end within the budget."""
        Course(task)

    def search(self, task: SearchTask) -> None:
        """Learn until the evaluations are spent; say so where none would be left to learn from."""
        say_if_all_random(task, self.name, self.schedule(task.horizon))
        with one_thread():
            env = PruningVecEnv(task)
            env.demonstrate(demonstrations(task, self.start, self.start))
            learn(task, self.model(task, env))

    def model(self, task: SearchTask, env: PruningVecEnv) -> EpisodeLearner:
        """Return the learner for one search, not yet trained."""
        raise NotImplementedError

    def made(
        self,
        learner: type[EpisodeLearner],
        env: PruningVecEnv,
        rates: Sequence[float],
        policy: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> EpisodeLearner:
        """Return a ``learner`` with the options of all, ``policy`` being more of its networks'."""
        schedule = self.schedule(env.task.horizon)
        networks = {
            "net_arch": [self.hidden, self.hidden],
            "optimizer_kwargs": {"fused": True},
        }
        return learner(
            env,
            schedule,
            rates,
            self.redraws,
            **episode_options(env, schedule, self.buffer_episodes, self.baseline_rate, True),
            batch_size=self.batch_size,
            gamma=self.gamma,
            policy_kwargs={**networks, **(policy or {})},
            **kwargs,
        )


@dataclass(kw_only=True)
class EntropyAgent(OffPolicyAgent):
    """A learner whose stochastic policy explores by itself, for reward and entropy.

    ``temperature`` is the first weight of the entropy, and ``temperature_lr`` Adam's rate for its
    logarithm, 0 to leave it as it is. It is led to ``target_entropy``, nats an action's number on
    [-1, 1]: at the published -1 a normal distribution has a deviation of 0.09, or 0.045 of the
    range of widths. The published first temperature, 1, is that of returns in the thousands. The
    scores of plans differ by some hundredths, and a short search has some hundred gradient steps,
    in which it would hardly fall: from 1 on, ``sac`` was no better than random search on the toy
    problem of the tests.
    """

    temperature: float = 0.01
    temperature_lr: float = 1e-3
    target_entropy: float = -1.0

    def entropy_options(self, env: PruningVecEnv) -> dict[str, Any]:
        """Return the options of stable-baselines3 that concern the entropy."""
        return {
            "ent_coef": f"auto_{self.temperature!r}",
            "target_entropy": self.target_entropy * len(env.course.kinds),
        }


def episode_options(
    env: PruningVecEnv, schedule: Schedule, buffer_episodes: int, rate: float, executed: bool | None
) -> dict[str, Any]:
    """Return the options of stable-baselines3 that make it learn by whole episodes.

    L gradient steps follow each finished episode of L steps, once the warm-up is over.
    """
    length, walks = len(env.course.steps), env.num_envs
    return {
        "buffer_size": -(-buffer_episodes // walks) * walks * length,
        "learning_starts": schedule.warmup_episodes * length,
        "train_freq": (length, "step"),
        "gradient_steps": -1,  # as many as steps taken: L for each of the finished episodes
        "replay_buffer_class": EpisodeReplayBuffer,
        "replay_buffer_kwargs": {"length": length, "rate": rate, "store_executed": executed},
        "seed": env.task.seed % 2**32,
        "device": "cpu",
    }


def demonstrations(
    task: SearchTask, uniform: bool | None, analytic: bool | None
) -> list[tuple[int, ...]]:
    """Return the plans, widths ``[L]``, that the first episodes follow, each once."""
    plans = [
        uniform_widths(task) if uniform else None,
        demonstration(task) if analytic else None,
    ]
    return list(dict.fromkeys(plan for plan in plans if plan is not None))


def say_if_all_random(task: SearchTask, name: str, schedule: Schedule) -> None:
    """Tell a person where a search has no episode that follows what is learned."""
    warmup = schedule.warmup_episodes
    if warmup >= task.horizon:
        task.notify(
            f"all of its {task.horizon} episodes are random, as the first {warmup} are; raise "
            f"evaluations or lower agents.{name}.warmup_episodes"
        )


def learn(task: SearchTask, learner: OffPolicyAlgorithm) -> None:
    """Let ``learner`` search until the evaluations of ``task`` are spent."""
    learner.set_logger(Logger(None, []))  # its own would leave a folder among temporary files
    learner.learn(2**60, callback=_StopWhenSpent(task), log_interval=None)  # type: ignore[arg-type]


class _StopWhenSpent(BaseCallback):
    """Ends ``learn()`` after the last evaluation, before the gradient steps nobody would use."""

    def __init__(self, task: SearchTask) -> None:
        super().__init__()
        self.task = task

    def _on_step(self) -> bool:
        return self.task.remaining > 0


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
