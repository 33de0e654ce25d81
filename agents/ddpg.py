"""``ddpg``: AMC's agent (He et al., ECCV 2018, arXiv:1802.03494, section 3.2 and its code).

As published: deterministic actor-critic with 300-300 hidden units; truncated-normal exploration
around the actor on [0, 1]; uniformly random warm-up; the reward of a finished plan on *every*
transition of its episode, discount 1, less a moving average of sampled rewards; L gradient steps a
finished episode of L sites. The published critic, relu(W_s s + W_a a) -> 300 -> 1, is one linear
layer on (s, a) together, which is what stable-baselines3's critic computes.

Deviations, each an option or forced by the batch:

- The *executed* action is stored, the published code stores the one before clipping and rounding
  (``store_executed``).
- The first episode follows the uniform plan and its transitions go into the replay buffer, so that
  the best of a search is never below ``uniform`` (``demonstrate_uniform``).
- ``task.walks`` episodes run side by side with one actor; each has the noise that it would have had
  one after the other, and the gradient steps of all of them follow together.
- The published schedule is laid out for 400 (paper) or 800 (code) episodes; for fewer, see
  ``DDPGAgent.schedule``.
- The actor's output is tanh on stable-baselines3's [-1, 1], the same family as sigmoid on [0, 1].
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents.base import Agent, require_flag, require_number
from agents.uniform import uniform_widths
from amc.search_task import SearchTask
from envs.vector import PruningVecEnv
from envs.walk import Course


@dataclass(frozen=True)
class Schedule:
    """Exploration by episode, counted over all walks: uniform first, then a shrinking normal.

    ``warmup_episodes`` uniform ones, then the standard deviation is ``sigma0 * decay ** e`` on the
    actions' [0, 1], where ``e`` counts the episodes since the warm-up.
    """

    warmup_episodes: int
    sigma0: float
    decay: float

    def sigma(self, episode: int) -> float | None:
        """Return the standard deviation in episode 0, 1, ...; ``None`` for a uniform one."""
        if episode < self.warmup_episodes:
            return None
        return self.sigma0 * self.decay ** (episode - self.warmup_episodes)


class EpisodeReplayBuffer(ReplayBuffer):
    """A replay buffer of whole episodes: terminal reward everywhere, baseline off when sampled.

    ``add`` writes the last reward of an episode of ``length`` steps to all its transitions.
    ``sample`` subtracts the moving average ``b <- b + rate (mean(batch r) - b)``, updated at each
    call; stored rewards stay as they are. With ``store_executed`` the action stored is the one
    executed, on stable-baselines3's [-1, 1].
    """

    def __init__(
        self, *args: Any, length: int, rate: float, store_executed: bool, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.length = length
        self.rate = rate
        self.store_executed = store_executed
        self.baseline: float | None = None

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every walk."""
        if self.store_executed:
            executed = np.asarray([info["executed_action"] for info in infos], dtype=np.float32)
            action = 2.0 * executed[:, None] - 1.0
        super().add(obs, next_obs, action, reward, done, infos)
        if done.all():
            episode = np.arange(self.pos - self.length, self.pos) % self.buffer_size
            self.rewards[episode] = reward

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Return a batch whose rewards are relative to the moving average."""
        batch = super().sample(batch_size, env)
        mean = float(batch.rewards.mean())
        if self.baseline is None:
            self.baseline = mean
        self.baseline += self.rate * (mean - self.baseline)
        return batch._replace(rewards=batch.rewards - self.baseline)


class AMCDDPG(DDPG):
    """Stable-baselines3's DDPG with AMC's exploration and a learning rate a network."""

    def __init__(
        self, env: PruningVecEnv, schedule: Schedule, rates: tuple[float, float], **kwargs: Any
    ) -> None:
        self.schedule = schedule
        self.rates = rates
        super().__init__("MlpPolicy", env, **kwargs)

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        assert isinstance(optimizers, list), "the actor's and the critic's"
        for optimizer, rate in zip(optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return actions ``[N, 1]`` in [0, 1], and the same on [-1, 1] for the replay buffer."""
        sigmas = [self.schedule.sigma(self._episode_num + i) for i in range(n_envs)]
        actions = np.random.random((n_envs, 1))
        if any(sigma is not None for sigma in sigmas):
            assert self._last_obs is not None, "set by learn()"
            means, _ = self.predict(self._last_obs, deterministic=True)
            for i, sigma in enumerate(sigmas):
                if sigma is not None:
                    actions[i] = truncated_normal(means[i], sigma, actions[i])
        actions = actions.astype(np.float32)
        return actions, 2.0 * actions - 1.0


def truncated_normal(
    mean: NDArray[Any], sigma: float, uniform: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return draws of a normal distribution cut to [0, 1], from ``uniform`` draws on [0, 1).

    By the inverse of its distribution function; all arguments and the result have one shape.
    """
    mean = np.asarray(mean, dtype=np.float64)
    low, high = ndtr((0.0 - mean) / sigma), ndtr((1.0 - mean) / sigma)
    draws = mean + sigma * ndtri(low + uniform * (high - low))
    return np.asarray(np.clip(draws, 0.0, 1.0))


class _StopWhenSpent(BaseCallback):
    """Ends ``learn()`` after the last evaluation, before the gradient steps nobody would use."""

    def __init__(self, task: SearchTask) -> None:
        super().__init__()
        self.task = task

    def _on_step(self) -> bool:
        return self.task.remaining > 0


class DDPGAgent(Agent):
    """AMC's DDPG behind ``search(task)``; the published constants are the defaults.

    ``warmup_episodes`` and ``sigma_decay`` of ``None`` follow from ``task.horizon``: see
    ``schedule``. Learning rates are Adam's, ``buffer_episodes`` is the published 100 L transitions.
    """

    def __init__(  # noqa: PLR0913 (each is a published constant)
        self,
        *,
        hidden: int = 300,
        actor_lr: float = 1e-4,
        critic_lr: float = 1e-3,
        gamma: float = 1.0,
        tau: float = 0.01,
        batch_size: int = 64,
        buffer_episodes: int = 100,
        warmup_episodes: int | None = None,
        sigma0: float = 0.5,
        sigma_decay: float | None = None,
        sigma_final: float = 0.05,
        baseline_rate: float = 0.5,
        store_executed: bool = True,
        demonstrate_uniform: bool = True,
    ) -> None:
        whole = {
            "hidden": (hidden, 1),
            "batch_size": (batch_size, 1),
            "buffer_episodes": (buffer_episodes, 1),
            "warmup_episodes": (warmup_episodes, 0),
        }
        for option, (number, least) in whole.items():
            if number is not None:
                require_number(f"agents.ddpg.{option}", number, least, 1e6, whole=True)
        fractions = {
            "actor_lr": (actor_lr, 0.0),
            "critic_lr": (critic_lr, 0.0),
            "gamma": (gamma, 0.0),
            "tau": (tau, 0.0),
            "baseline_rate": (baseline_rate, 0.0),
            "sigma0": (sigma0, 1e-3),
            "sigma_decay": (sigma_decay, 1e-3),
            "sigma_final": (sigma_final, 1e-6),
        }
        for option, (fraction, lowest) in fractions.items():
            if fraction is not None:
                require_number(f"agents.ddpg.{option}", fraction, lowest, 1.0)
        require_flag("agents.ddpg.store_executed", store_executed)
        require_flag("agents.ddpg.demonstrate_uniform", demonstrate_uniform)
        self.hidden, self.actor_lr, self.critic_lr = hidden, actor_lr, critic_lr
        self.gamma, self.tau, self.batch_size = gamma, tau, batch_size
        self.buffer_episodes, self.warmup_episodes = buffer_episodes, warmup_episodes
        self.sigma0, self.sigma_decay, self.sigma_final = sigma0, sigma_decay, sigma_final
        self.baseline_rate = baseline_rate
        self.store_executed, self.demonstrate_uniform = store_executed, demonstrate_uniform

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
        Course(task)

    def search(self, task: SearchTask) -> None:
        """Learn until the evaluations are spent."""
        with one_thread():
            env = PruningVecEnv(task)
            if self.demonstrate_uniform:
                env.demonstrate([uniform_widths(task)])
            model = self.model(task, env)
            model.learn(2**60, callback=_StopWhenSpent(task), log_interval=None)  # type: ignore[arg-type]

    def model(self, task: SearchTask, env: PruningVecEnv) -> AMCDDPG:
        """Return the learner for one search, not yet trained."""
        length, walks = len(task.sites), task.walks
        schedule = self.schedule(task.horizon)
        return AMCDDPG(
            env,
            schedule,
            (self.actor_lr, self.critic_lr),
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
