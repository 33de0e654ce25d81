"""What the off-policy agents add to stable-baselines3: exploration by episode, replay of episodes.

Both are AMC's (He et al., ECCV 2018, arXiv:1802.03494, section 3.2); ``agents.ddpg`` says where
they differ from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from envs.vector import PruningVecEnv
from envs.walk import Walk


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

    @staticmethod
    def laid_out(
        horizon: int,
        warmup_episodes: int | None,
        sigma0: float,
        sigma_decay: float | None,
        sigma_final: float,
    ) -> Schedule:
        """Return the exploration of a search laid out for ``horizon`` episodes.

        Where none is given, warm-up is a quarter (the paper's 100 of 400), at most the published
        100, and the decay is the published 0.95, or faster where that would not end at
        ``sigma_final``. From 60 episodes on it is the published one.
        """
        warmup, decay = warmup_episodes, sigma_decay
        if warmup is None:
            warmup = min(100, -(-horizon // 4))
        if decay is None:
            decay = min(0.95, (sigma_final / sigma0) ** (1 / max(1, horizon - warmup)))
        return Schedule(warmup, sigma0, decay)


class EpisodeReplayBuffer(ReplayBuffer):
    """A replay buffer of whole episodes: terminal reward everywhere, baseline off when sampled.

    ``add`` writes the last reward of an episode of ``length`` steps to all its transitions.
    ``sample`` subtracts the moving average ``b <- b + rate (mean(batch r) - b)``, updated at each
    call; stored rewards stay as they are. With ``store_executed`` the action stored is the one
    executed, on stable-baselines3's [-1, 1]. So is every action of a scripted walk: the ones drawn
    for it had no part in its reward.
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
        executed = np.stack([info["executed_action"] for info in infos])
        chosen = np.asarray([self.store_executed or info["scripted"] for info in infos])
        action = np.where(chosen[:, None], 2.0 * executed - 1.0, action)
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


class EpisodeLearner(OffPolicyAlgorithm):
    """What stands before one of stable-baselines3's algorithms: exploration, and learning rates.

    ``class Learner(EpisodeLearner, SAC)`` explores by episode. A ``stochastic`` one takes what its
    own policy draws; any other adds truncated-normal noise to its actor's action. Walks are
    arithmetic, so an episode is drawn whole before it is walked. One that would end at a plan asked
    for before is drawn again, at most ``redraws`` times. ``rates`` are the learning rates of the
    optimizers in the algorithm's order: actor, critics and, where it is learned, temperature.
    """

    stochastic: ClassVar[bool] = False

    def __init__(
        self,
        env: PruningVecEnv,
        schedule: Schedule,
        rates: Sequence[float],
        redraws: int | None,
        **kwargs: Any,
    ) -> None:
        self.pruning = env
        self.schedule = schedule
        self.rates = rates
        self.redraws = redraws or 0
        self._asked: set[tuple[int, ...]] = set()
        self._drawn: NDArray[np.float32] = np.zeros((0, 0, 0), dtype=np.float32)
        super().__init__("MlpPolicy", env, **kwargs)

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        assert isinstance(optimizers, list), "the actor's, the critics' and so on"
        for optimizer, rate in zip(optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take so many gradient steps, each on transitions drawn from the replay buffer."""
        with without_denormals():
            super().train(gradient_steps, batch_size)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return actions ``[N, kinds]`` in [0, 1], and on [-1, 1] for the replay buffer."""
        step = self.pruning.walks[0].steps
        if step == 0:
            self._drawn = self._draw_new()
        actions = self._drawn[step]
        return actions, 2.0 * actions - 1.0

    def _draw_new(self) -> NDArray[np.float32]:
        """Return the actions ``[L, N, kinds]`` of the next episodes, if possible to new plans."""
        walks = self.pruning.walks
        sigmas = [self.schedule.sigma(self._episode_num + i) for i in range(len(walks))]
        actions, plans = self._draw(walks, sigmas)
        for _ in range(self.redraws):
            seen, known = set(self._asked), []
            for i, plan in enumerate(plans):
                if plan in seen and not walks[i].scripted:
                    known.append(i)
                seen.add(plan)
            if not known:
                break
            again = self._draw([walks[i] for i in known], [sigmas[i] for i in known])
            for column, i in enumerate(known):
                actions[:, i], plans[i] = again[0][:, column], again[1][column]
        self._asked.update(plans)
        return actions

    def _draw(
        self, walks: Sequence[Walk], sigmas: Sequence[float | None]
    ) -> tuple[NDArray[np.float32], list[tuple[int, ...]]]:
        """Return actions ``[L, N, kinds]`` of one episode a walk, and the plans they lead to."""
        ahead = [walk.restarted() for walk in walks]
        low, high = self.pruning.course.convention.action_range
        rows = []
        while not ahead[0].done:
            uniform = np.random.random((len(ahead), len(self.pruning.course.kinds)))
            actions = low + uniform * (high - low)
            if any(sigma is not None for sigma in sigmas):
                states = np.stack([walk.observation() for walk in ahead])
                own, _ = self.predict(states, deterministic=not self.stochastic)
                for i, sigma in enumerate(sigmas):
                    if sigma is not None and self.stochastic:
                        actions[i] = own[i]
                    elif sigma is not None:
                        actions[i] = truncated_normal(own[i], sigma, uniform[i])
            rows.append(actions.astype(np.float32))
            for walk, action in zip(ahead, rows[-1], strict=True):
                walk.step(action)
        return np.stack(rows), [walk.widths for walk in ahead]


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


@contextlib.contextmanager
def without_denormals() -> Iterator[None]:
    """Let torch flush denormal numbers to zero, as Adam's moments of units never active become.

    They are slow.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
