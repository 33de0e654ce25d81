"""The Gymnasium environment and the vector environment."""

from __future__ import annotations

import json
from dataclasses import asdict

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import RescaleAction
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.vec_env import VecMonitor

from amc.errors import BudgetSpent
from envs import PRUNING
from envs.pruning import PruningEnv
from envs.state import Convention
from envs.vector import PruningVecEnv
from tests.toy import ToyEvaluator, toy_env, toy_task

TOY = "toy/Pruning-v0"
gymnasium.register(TOY, entry_point="tests.toy:toy_env")


def test_registered_with_an_entry_point_that_is_resolved_late() -> None:
    spec = gymnasium.spec(PRUNING)
    assert spec.entry_point == "amc.app:make_env"
    assert json.loads(spec.to_json())["id"] == PRUNING


CONVENTIONS = [
    Convention(),
    Convention(state="released"),
    Convention(action="input", lower_bound=0.2),
    Convention(state="released", action="input", lower_bound=0.3, upper_bound=0.8),
    Convention(lower_bound=0.5),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
def test_checkers_pass_whatever_the_convention(convention: Convention) -> None:
    made = gymnasium.make(TOY, sites=3, fraction=0.8, **asdict(convention))
    gymnasium_check(made.unwrapped)
    sb3_check(made.unwrapped, warn=False)
    made.close()


@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
def test_both_environments_have_the_convention(convention: Convention) -> None:
    task = toy_task(fraction=0.8, walks=2)
    single, vector = PruningEnv(task, convention), PruningVecEnv(task, convention)
    length = 11 if convention.state == "paper" else 10
    assert single.observation_space == vector.observation_space
    first, _ = single.reset()
    assert first.shape == (length,)
    np.testing.assert_array_equal(vector.reset(), [first, first])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sites", [1, 2, 6])
def test_checkers_pass_without_a_warning(sites: int) -> None:
    made = gymnasium.make(TOY, sites=sites)
    assert json.loads(made.spec.to_json())["kwargs"] == {"sites": sites}  # type: ignore[union-attr]
    gymnasium_check(made.unwrapped)
    sb3_check(made.unwrapped, warn=False)
    sb3_check(RescaleAction(made, np.float32(-1), np.float32(1)))
    made.close()


def test_stable_baselines_only_remark_is_the_range_of_the_action() -> None:
    with pytest.warns(UserWarning, match="symmetric and normalized Box action space") as caught:
        sb3_check(toy_env())
    assert len(caught) == 1, "SB3's algorithms rescale [0, 1] themselves"


def test_one_episode() -> None:
    env = toy_env(4)
    observation, info = env.reset(seed=1)
    assert info == {}
    for t in range(4):
        assert observation in env.observation_space
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert not truncated
        assert terminated == (t == 3)
        assert len(info["widths"]) == t + 1
        assert ("evaluation" in info) == terminated
        assert terminated or reward == 0.0
    assert reward == info["evaluation"].reward == env.task.history[0].reward
    assert env.task.fits(info["widths"])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, dtype=np.float32))


def test_single_and_vector_environments_agree() -> None:
    single, vector = PruningEnv(toy_task(walks=1)), PruningVecEnv(toy_task(walks=3))
    actions = np.random.default_rng(0).random((6, 3, 1)).astype(np.float32)
    vector.reset()
    for step in actions:
        _, rewards, dones, infos = vector.step(step)
    assert dones.all()
    for i in range(3):
        single.reset()
        for step in actions:
            observation, reward, _, _, info = single.step(step[i])
        assert reward == pytest.approx(float(rewards[i]))
        assert info["widths"] == infos[i]["widths"]
        assert info["evaluation"].key == infos[i]["evaluation"].key
        np.testing.assert_array_equal(observation, infos[i]["terminal_observation"])


def test_finished_walks_are_evaluated_in_one_batch() -> None:
    task = toy_task(sites=3, walks=4, evaluations=10)
    env = VecMonitor(PruningVecEnv(task))
    env.reset()
    action = np.full((4, 1), 0.4, dtype=np.float32)
    for _ in range(6):
        env.step(action)
    evaluator = task.evaluator
    assert isinstance(evaluator, ToyEvaluator)
    assert [len(batch) for batch in evaluator.batches] == [4, 4]
    env.step(action)
    env.step(action)
    with pytest.raises(BudgetSpent):
        env.step(action)
    assert [len(batch) for batch in evaluator.batches] == [4, 4, 2]
    assert len(task.history) == 10


def test_demonstrations_come_first_and_only_once() -> None:
    task = toy_task(sites=3, walks=2)
    env = PruningVecEnv(task)
    env.demonstrate([task.smallest_widths] * 3)
    env.reset()
    for _ in range(6):
        env.step(np.ones((2, 1), dtype=np.float32))
    widths = [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]
    assert [w == task.smallest_widths for w in widths] == [True, True, True, False]
    with pytest.raises(ValueError, match="do not fit"):
        env.demonstrate([task.dense_widths])


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_any_off_policy_algorithm_trains_unchanged(algorithm: type[SAC] | type[TD3]) -> None:
    task = toy_task(sites=5, walks=4, evaluations=14)
    model = algorithm(
        "MlpPolicy",
        PruningVecEnv(task),
        learning_starts=20,
        batch_size=16,
        policy_kwargs={"net_arch": [32, 32]},
        seed=0,
    )
    with pytest.raises(BudgetSpent):
        model.learn(10_000)
    assert len(task.history) == 14
    assert all(task.budget.met_by(evaluation.cost) for evaluation in task.history)


def test_walks_answer_for_their_vector() -> None:
    env = PruningVecEnv(toy_task(sites=3, walks=2))
    env.reset()
    assert env.get_attr("position") == [0, 0]
    assert env.env_method("wall", indices=0) == [env.walks[0].wall()]
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False, False]
    with pytest.raises(AttributeError, match="cannot be set"):
        env.set_attr("position", 1)
