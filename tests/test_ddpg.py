"""AMC's DDPG: schedule, exploration, replay, learning rates."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import truncnorm

from agents.ddpg import DDPGAgent
from agents.ddpg_learner import AMCDDPG, EpisodeReplayBuffer, Schedule, truncated_normal
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent
from amc.journal import Journal
from amc.replay import JournaledEvaluator
from amc.search_task import SearchTask, seed_everything
from envs.state import Convention
from envs.vector import PruningVecEnv
from tests.toy import ToyEvaluator, toy_task


def search(agent: DDPGAgent, task: SearchTask) -> None:
    seed_everything(task.seed)
    with contextlib.suppress(BudgetSpent):
        agent.search(task)


@pytest.mark.parametrize(
    ("horizon", "warmup", "decay"), [(800, 100, 0.95), (400, 100, 0.95), (60, 15, 0.95)]
)
def test_the_schedule_is_the_published_one_where_there_is_room(
    horizon: int, warmup: int, decay: float
) -> None:
    schedule = DDPGAgent().schedule(horizon)
    assert schedule.warmup_episodes == warmup
    assert schedule.decay == pytest.approx(decay)
    assert schedule.sigma(warmup - 1) is None
    assert schedule.sigma(warmup) == 0.5
    assert schedule.sigma(warmup + 10) == pytest.approx(0.5 * schedule.decay**10)


@pytest.mark.parametrize("horizon", [1, 2, 8, 20, 60, 200])
def test_exploration_is_over_by_the_horizon(horizon: int) -> None:
    schedule = DDPGAgent().schedule(horizon)
    last = schedule.sigma(horizon)
    assert last is not None
    assert last <= 0.05 * 1.001 or horizon == schedule.warmup_episodes


@pytest.mark.parametrize(("mean", "sigma"), [(0.8, 0.5), (0.0, 0.1), (1.0, 1e-3), (0.4, 1e-9)])
def test_truncated_normal_follows_its_distribution(mean: float, sigma: float) -> None:
    uniform = np.linspace(0.0, 1.0, 1001)[1:-1]
    draws = truncated_normal(np.full(999, mean), sigma, uniform)
    expected = truncnorm.ppf(uniform, -mean / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
    np.testing.assert_allclose(draws, expected, atol=1e-6)
    assert ((draws >= 0) & (draws <= 1)).all()


def test_replay_writes_the_reward_everywhere_and_takes_the_baseline_off_samples() -> None:
    buffer = EpisodeReplayBuffer(
        12,
        spaces.Box(0, 1, (2,), np.float32),
        spaces.Box(0, 1, (1,), np.float32),
        device="cpu",
        n_envs=2,
        length=3,
        rate=0.5,
        store_executed=True,
    )
    for rewards in ((0.5, 0.7), (0.9, 0.1), (0.2, 0.4)):  # the third episode overwrites the first
        for t in range(3):
            last = t == 2
            buffer.add(
                np.full((2, 2), t / 3),
                np.full((2, 2), (t + 1) / 3),
                np.zeros((2, 1)),
                np.asarray(rewards) * last,
                np.full(2, last),
                [
                    {"executed_action": np.array([a], np.float32), "scripted": False}
                    for a in (0.25, 1.0)
                ],
            )
    np.testing.assert_allclose(buffer.rewards, [[0.2, 0.4]] * 3 + [[0.9, 0.1]] * 3)
    np.testing.assert_allclose(buffer.actions[:, :, 0], [[-0.5, 1.0]] * 6)
    stored = buffer.rewards.copy()
    np.random.seed(0)
    first = buffer.sample(64).rewards
    assert float(first.mean()) == pytest.approx(0.0, abs=1e-6)
    before = buffer.baseline
    assert before is not None
    second = buffer.sample(64).rewards
    assert buffer.baseline is not None
    raw_mean = float(second.mean()) + buffer.baseline
    assert buffer.baseline == pytest.approx(before + 0.5 * (raw_mean - before))
    np.testing.assert_array_equal(buffer.rewards, stored)


def test_every_walk_of_a_batch_has_the_noise_of_its_own_episode() -> None:
    agent = DDPGAgent()
    task = toy_task(sites=3, walks=4)
    model = agent.model(task, PruningVecEnv(task))
    model.schedule = Schedule(2, 1e-12, 1.0)
    seen = [model._sample_action(0, None, 4)[0][:, 0] for _ in range(5)]
    spread = np.ptp(np.stack(seen), axis=0)
    assert (spread[:2] > 1e-3).all(), "uniform in the warm-up"
    assert (spread[2:] < 1e-6).all(), "around the actor after it"


def test_gradient_steps_and_learning_rates() -> None:
    task = toy_task(sites=3, walks=4, evaluations=20, horizon=16)
    models: list[AMCDDPG] = []

    class Watched(DDPGAgent):
        def model(self, task: SearchTask, env: PruningVecEnv) -> AMCDDPG:
            models.append(super().model(task, env))
            return models[-1]

    search(Watched(), task)
    (model,) = models
    # 16 episodes end before the last batch, 4 of them in the warm-up: L steps for each later one
    # and none after the last evaluation.
    assert model._n_updates == 3 * (16 - 4)
    assert [o.param_groups[0]["lr"] for o in (model.actor.optimizer, model.critic.optimizer)] == [
        1e-4,
        1e-3,
    ]
    assert next(p.shape for p in model.actor.parameters()) == (300, 11)
    assert next(p.shape for p in model.critic.parameters()) == (300, 12)
    assert len(list(model.critic.parameters())) == 6, "one critic of three layers"


def test_the_first_plan_is_the_uniform_one_so_that_it_is_never_below() -> None:
    task = toy_task(sites=6, key="predicted_latency", evaluations=8)
    search(DDPGAgent(), task)
    assert task.history[0].request.plan == task.plan(uniform_widths(task))
    plain = toy_task(sites=6, key="predicted_latency", evaluations=8)
    search(DDPGAgent(demonstrate_uniform=False), plain)
    assert plain.history[0].request.plan != plain.plan(uniform_widths(plain))


def test_threads_and_batches_are_left_as_they_were() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        task = toy_task(sites=3, walks=4, evaluations=10)
        search(DDPGAgent(), task)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert isinstance(task.evaluator, ToyEvaluator)
    assert [len(batch) for batch in task.evaluator.batches] == [4, 4, 2]


@pytest.mark.parametrize("walks", [1, 3])
def test_any_number_of_walks(walks: int) -> None:
    task = toy_task(sites=3, walks=walks, evaluations=7)
    search(DDPGAgent(store_executed=False), task)
    assert len(task.history) == 7


def asked(task: SearchTask) -> list[tuple[int, ...]]:
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


@pytest.mark.parametrize("walks", [1, 4])
def test_noise_is_drawn_again_for_a_plan_already_known(walks: int) -> None:
    def repeats(redraws: int) -> int:
        task = toy_task(sites=2, evaluations=9, walks=walks, fraction=0.8)
        search(DDPGAgent(redraws=redraws, warmup_episodes=9), task)
        assert len(task.history) == 9
        return 9 - len(set(asked(task)))

    assert repeats(0) > 0, "so few plans that random ones meet"
    assert repeats(200) == 0


def test_redraws_are_bounded_where_every_plan_is_known() -> None:
    task = toy_task(sites=1, evaluations=12, walks=4, fraction=1.0)
    search(DDPGAgent(redraws=3), task)
    assert len(task.history) == 12
    assert len(set(asked(task))) <= len(task.sites[0].widths) < 12


def test_a_first_draw_that_is_new_stands() -> None:
    def first(redraws: int) -> list[tuple[int, ...]]:
        task = toy_task(sites=8, evaluations=24, step=2)
        search(DDPGAgent(redraws=redraws), task)
        return asked(task)

    assert len(set(first(0))) == 24, "none is met twice"
    assert first(0) == first(50)


def test_the_published_protocol_is_the_released_codes() -> None:
    agent = DDPGAgent(protocol="published")
    schedule = agent.schedule(400)
    assert schedule == Schedule(100, 0.5, 0.95) == agent.schedule(60)
    assert agent.convention == Convention("released", "input", 0.2, 1.0)
    assert (agent.store_executed, agent.demonstrate_uniform, agent.redraws) == (False, False, 0)
    task = toy_task(sites=3, walks=1)
    model = agent.model(task, PruningVecEnv(task, agent.convention))
    assert (model.gamma, model.tau, model.batch_size) == (1.0, 0.01, 64)
    assert model.buffer_size == 100 * 3
    assert model.learning_starts == 100 * 3
    assert next(p.shape for p in model.actor.parameters()) == (300, 10)
    assert isinstance(model.replay_buffer, EpisodeReplayBuffer)
    assert model.replay_buffer.rate == 0.5
    own = DDPGAgent(protocol="published", warmup_episodes=5, store_executed=True, state="paper")
    assert own.schedule(60).warmup_episodes == 5
    assert own.store_executed
    assert own.convention == Convention("paper", "input", 0.2, 1.0)


@pytest.mark.parametrize("store_executed", [False, True])
def test_replay_holds_the_executed_action_or_the_raw_one(store_executed: bool) -> None:
    models: list[AMCDDPG] = []

    class Watched(DDPGAgent):
        def model(self, task: SearchTask, env: PruningVecEnv) -> AMCDDPG:
            models.append(super().model(task, env))
            return models[-1]

    task = toy_task(sites=4, walks=1, evaluations=6)
    search(Watched(protocol="published", store_executed=store_executed), task)
    buffer = models[0].replay_buffer
    assert isinstance(buffer, EpisodeReplayBuffer)
    stored = (buffer.actions[: 5 * 4, 0, 0].reshape(5, 4) + 1) / 2
    executed = np.asarray(asked(task)[:5]) / np.asarray(task.dense_widths)
    assert np.allclose(stored, executed, atol=1e-6) == store_executed
    assert ((stored >= 0.2 - 1e-6) & (stored <= 1)).all(), "random actions keep to the bounds"


def test_replay_of_raw_actions_holds_the_executed_ones_of_the_demonstration() -> None:
    task = toy_task(sites=4, walks=2, evaluations=6)
    agent = DDPGAgent(store_executed=False, redraws=0)
    env = PruningVecEnv(task, agent.convention)
    env.demonstrate([uniform_widths(task)])
    model = agent.model(task, env)
    model.learn(2 * 4)
    assert isinstance(model.replay_buffer, EpisodeReplayBuffer)
    stored = (model.replay_buffer.actions[:4, :, 0] + 1) / 2
    uniform = [env.course.action(t, width) for t, width in enumerate(uniform_widths(task))]
    assert stored[:, 0] == pytest.approx(uniform, abs=1e-6)
    drawn = model._drawn[:, :, 0]
    assert stored[:, 1] == pytest.approx(drawn[:, 1], abs=1e-6), "the other walk's stay raw"
    assert stored[:, 0] != pytest.approx(drawn[:, 0], abs=1e-2)


def test_a_search_of_random_episodes_alone_says_so() -> None:
    said: list[str] = []
    task = toy_task(sites=3, evaluations=8)
    task.notify = said.append
    search(DDPGAgent(protocol="published"), task)
    (message,) = said
    assert message.startswith("all of its 8 episodes are random, as the first 100 are; raise")
    search(DDPGAgent(), task)
    assert len(said) == 1


def test_other_conventions_search_and_end_within_the_budget() -> None:
    for options in ({"state": "released"}, {"action": "input"}, {"upper_bound": 0.8}):
        task = toy_task(sites=4, evaluations=12)
        search(DDPGAgent(**options), task)
        assert len(task.history) == 12
        assert all(task.budget.met_by(e.cost) for e in task.history)


@pytest.mark.parametrize("protocol", ["adapted", "published"])
def test_growing_from_60_to_120_leaves_the_first_records_as_they_were(
    tmp_path: Path, protocol: str
) -> None:
    file = tmp_path / "journal.jsonl"
    Journal.create(file, {})

    def run(evaluations: int) -> tuple[bytes, int]:
        task = toy_task(sites=3, evaluations=evaluations, horizon=60)
        inner = task.evaluator
        task.evaluator = JournaledEvaluator(inner, Journal(file, {}))
        # 100 random episodes are published, and more than the first 60; ``adapted`` has its own.
        warmup = {"published": 15, "adapted": None}[protocol]
        agent = DDPGAgent(protocol=protocol, warmup_episodes=warmup, batch_size=16, hidden=32)
        search(agent, task)
        assert len(task.history) == evaluations
        assert isinstance(inner, ToyEvaluator)
        return file.read_bytes(), sum(len(batch) for batch in inner.batches)

    short, made = run(60)
    long, more = run(120)
    assert (made, more) == (60, 60), "the first 60 are answered from the journal"
    assert long.startswith(short)
    assert long.count(b"\n") == 121
