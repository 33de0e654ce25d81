"""``PruningVecEnv``: N walks side by side, scored in one batch, for stable-baselines3."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from amc.search_task import SearchTask
from envs.pruning import action_space, observation_space, step_info
from envs.state import Convention
from envs.walk import Course, Walk

Array = NDArray[np.float32]


class PruningVecEnv(VecEnv):
    """``task.walks`` walks that end together and are evaluated in one call of ``task.evaluate``.

    Spaces, rewards and infos are those of ``PruningEnv``. Walks restart by themselves, as
    stable-baselines3 expects; ``terminal_observation`` stands in the info of a last step. When
    fewer evaluations remain than walks, the first ones are evaluated and ``BudgetSpent`` passes
    through ``step``, and so out of ``learn()``.
    """

    def __init__(self, task: SearchTask, convention: Convention | None = None) -> None:
        self.task = task
        self.course = Course(task, convention)
        self._scripts: deque[Sequence[int]] = deque()
        self._actions: Array = np.zeros((task.walks, len(self.course.kinds)), dtype=np.float32)
        self.walks = [Walk(self.course) for _ in range(task.walks)]
        spaces = observation_space(self.course.convention), action_space(self.course)
        super().__init__(task.walks, *spaces)

    def demonstrate(self, plans: Sequence[Sequence[int]]) -> None:
        """Let the next walks that start follow ``plans`` (widths), one each, instead of actions.

        Infos carry the actions that would have led there, and every info says whether its walk is
        ``scripted``. Raises ``ValueError`` for a plan that is not legal or does not fit the budget.
        """
        for widths in plans:
            self.course.check_script(widths)
        self._scripts.extend(plans)

    def reset(self) -> Array:
        """Start all walks; return their observations ``[N, features]``."""
        for i in range(self.num_envs):
            script = self._scripts.popleft() if self._scripts else None
            self.walks[i] = Walk(self.course, script)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions ``[N, kinds]`` of the next step."""
        self._actions = np.asarray(actions, dtype=np.float32).reshape(self._actions.shape)

    def step_wait(self) -> VecEnvStepReturn:
        """Take one step a walk; score all plans when it was the last one."""
        infos = [
            step_info(walk, walk.step(action))
            for walk, action in zip(self.walks, self._actions, strict=True)
        ]
        for walk, info in zip(self.walks, infos, strict=True):
            info["TimeLimit.truncated"] = False
            info["scripted"] = walk.scripted
        dones = np.asarray([walk.done for walk in self.walks])
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        observations = self._observations()
        if dones.all():
            rewards[:] = self._score(infos)
            for info, observation in zip(infos, observations, strict=True):
                info["terminal_observation"] = observation
            observations = self.reset()
        return observations, rewards, dones, infos

    def _score(self, infos: list[dict[str, Any]]) -> list[float]:
        """Evaluate the finished walks in one batch; return their rewards."""
        plans = [self.task.plan(walk.widths) for walk in self.walks]
        evaluations = self.task.evaluate(plans)
        for info, evaluation in zip(infos, evaluations, strict=True):
            info["evaluation"] = evaluation
        return [evaluation.reward for evaluation in evaluations]

    def _observations(self) -> Array:
        return np.stack([walk.observation() for walk in self.walks])

    def close(self) -> None:
        """Nothing is held that would need closing."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the walks; they are never rendered."""
        if attr_name == "render_mode":
            return [None for _ in self._get_indices(indices)]
        return [getattr(self.walks[i], attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: a walk's state follows from its actions alone."""
        raise AttributeError(f"a walk's {attr_name!r} cannot be set from outside")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the walks and return its results."""
        chosen = [self.walks[i] for i in self._get_indices(indices)]
        return [getattr(walk, method_name)(*method_args, **kwargs) for walk in chosen]

    def env_is_wrapped(
        self,
        wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]],
        indices: VecEnvIndices = None,
    ) -> list[bool]:
        """Return ``False`` for each walk: they are bare arithmetic."""
        return [False for _ in self._get_indices(indices)]
