"""``PruningEnv``: a search as a Gymnasium environment, one episode a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from amc.search_task import SearchTask
from envs.state import Convention
from envs.walk import Course, Walk

Array = NDArray[np.float32]


def observation_space(convention: Convention) -> spaces.Box[np.float32]:
    """Return the space of AMC's eleven or ten features, each in [0, 1]."""
    return spaces.Box(0.0, 1.0, (len(convention.features),), np.float32)


def action_space(course: Course) -> spaces.Box[np.float32]:
    """Return the space of actions, a number in [0, 1] for each of ``course.kinds``.

    ``Convention`` and ``envs.walk`` say what they mean.
    """
    return spaces.Box(0.0, 1.0, (len(course.kinds),), np.float32)


def step_info(walk: Walk, executed_action: Sequence[float]) -> dict[str, Any]:
    """Return what a step tells: the widths executed so far, and the action just executed."""
    return {"widths": walk.widths, "executed_action": np.asarray(executed_action, np.float32)}


class PruningEnv(gymnasium.Env[Array, Array]):
    """One walk over the sites an episode; the finished plan's reward at the end, 0 before.

    Observations ``[11]`` or ``[10]`` and the action, ``[1]`` or in mixed spaces ``[2]``, are
    described in ``envs.state`` and ``envs.walk``; ``envs.state.Convention`` chooses between the
    paper's and the released code's. ``info`` holds ``widths`` (executed so far),
    ``executed_action`` and, at the end, ``evaluation``. The environment itself is deterministic;
    ``reset(seed=...)`` seeds ``np_random`` as Gymnasium asks. ``step`` lets ``BudgetSpent`` pass
    when the task has no evaluation left.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, task: SearchTask, convention: Convention | None = None) -> None:
        self.task = task
        self._course = Course(task, convention)
        self.observation_space = observation_space(self._course.convention)
        self.action_space = action_space(self._course)
        self._walk: Walk | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start a walk; return its first observation and an empty info."""
        super().reset(seed=seed)
        self._walk = Walk(self._course)
        return self._walk.observation(), {}

    def step(self, action: Array) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step; score the plan when it was the last one."""
        walk = self._walk
        if walk is None:
            raise gymnasium.error.ResetNeeded("the walk is over; call reset() first")
        info = step_info(walk, walk.step(np.asarray(action).reshape(self.action_space.shape)))
        reward = 0.0
        if walk.done:
            (evaluation,) = self.task.evaluate([self.task.plan(walk.widths)])
            reward = evaluation.reward
            info["evaluation"] = evaluation
            self._walk = None
        return walk.observation(), reward, walk.done, False, info
