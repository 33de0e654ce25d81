"""Td3, sac, tqc and crossq: the episodes are those of ddpg, the learner is each one's own."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.analytic import analytic_widths
from agents.crossq import CrossQAgent
from agents.ddpg import DDPGAgent
from agents.off_policy import EntropyAgent, OffPolicyAgent
from agents.off_policy_learner import EpisodeLearner, EpisodeReplayBuffer, Schedule
from agents.sac import SACAgent
from agents.td3 import TD3Agent
from agents.tqc import TQCAgent
from agents.uniform import uniform_widths
from amc.errors import BudgetSpent, InputError
from amc.search_task import SearchTask, seed_everything
from envs.vector import PruningVecEnv
from tests.toy import toy_task

EACH = pytest.mark.parametrize("kind", [TD3Agent, SACAgent, TQCAgent, CrossQAgent])
SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 8}


def search(agent: OffPolicyAgent, task: SearchTask) -> EpisodeLearner:
    """Return the learner of a whole search."""
    made: list[EpisodeLearner] = []
    make = agent.model

    def kept(task: SearchTask, env: PruningVecEnv) -> EpisodeLearner:
        made.append(make(task, env))
        return made[-1]

    agent.model = kept  # type: ignore[method-assign]
    seed_everything(task.seed)
    with contextlib.suppress(BudgetSpent):
        agent.search(task)
    return made[0]


def asked(task: SearchTask) -> list[tuple[int, ...]]:
    return [tuple(len(c.kept) for c in e.request.plan.choices.values()) for e in task.history]


@pytest.mark.slow
@pytest.mark.long
@EACH
def test_it_starts_from_the_uniform_and_the_analytic_plan(kind: type[OffPolicyAgent]) -> None:
    task = toy_task(sites=6, evaluations=6, curves=True)
    search(kind(**SMALL), task)
    known = [uniform_widths(task), analytic_widths(task)]
    assert asked(task)[:2] == known
    alone = toy_task(sites=6, evaluations=6, curves=True)
    search(kind(**SMALL, start=False), alone)
    assert not set(asked(alone)) & set(known)


@EACH
def test_the_reward_is_on_every_transition_and_the_last_one_ends_the_episode(
    kind: type[OffPolicyAgent],
) -> None:
    task = toy_task(sites=3, walks=4, evaluations=12, curves=True)
    buffer = search(kind(**SMALL), task).replay_buffer
    assert isinstance(buffer, EpisodeReplayBuffer)
    # The third batch is the last: learning ends with it, so that it is not stored any more.
    rewards = np.asarray([e.reward for e in task.history[:8]]).reshape(2, 1, 4)
    np.testing.assert_allclose(buffer.rewards[:6], np.repeat(rewards, 3, axis=0).reshape(6, 4))
    np.testing.assert_array_equal(buffer.dones[:6], np.tile([[0], [0], [1]], (2, 4)))
    np.testing.assert_array_equal(buffer.next_observations[0:2], buffer.observations[1:3])
    executed = (buffer.actions[:6, :, 0].reshape(2, 3, 4).transpose(0, 2, 1) + 1) / 2
    course = PruningVecEnv(task).course
    meant = [[course.action(t, w) for t, w in enumerate(plan)] for plan in asked(task)[:8]]
    np.testing.assert_allclose(executed.reshape(8, 3), meant, atol=1e-6)


@EACH
def test_gradient_steps_and_learning_rates(kind: type[OffPolicyAgent]) -> None:
    rates: dict[str, Any] = {"actor_lr": 1e-5, "critic_lr": 1e-4}
    task = toy_task(sites=3, walks=4, evaluations=20, horizon=16)
    model = search(kind(**SMALL, **rates), task)
    # 16 episodes end before the last batch, 4 of them in the warm-up: L steps for each later one.
    assert model._n_updates == 3 * (16 - 4)
    assert model.gamma == 1.0
    policy: Any = model.policy
    optimizers = [policy.actor.optimizer, policy.critic.optimizer]
    assert [o.param_groups[0]["lr"] for o in optimizers] == [1e-5, 1e-4]
    assert policy.actor.optimizer.param_groups[0]["fused"]


@EACH
def test_its_schedule_is_that_of_ddpg(kind: type[OffPolicyAgent]) -> None:
    for horizon in (1, 8, 60, 400):
        expected = DDPGAgent().schedule(horizon)
        assert kind().schedule(horizon).warmup_episodes == expected.warmup_episodes
        if kind is TD3Agent:
            assert kind().schedule(horizon) == expected
    assert kind(warmup_episodes=3).schedule(60).warmup_episodes == 3


@pytest.mark.slow
@pytest.mark.long
@EACH
def test_exploration_after_the_warm_up_is_its_own(kind: type[OffPolicyAgent]) -> None:
    task = toy_task(sites=3, walks=4)
    seed_everything(0)
    model = kind(redraws=0, **SMALL).model(task, PruningVecEnv(task))
    model.schedule = Schedule(2, 1e-12, 1.0)
    seen = np.stack([model._sample_action(0, None, 4)[0][:, 0] for _ in range(5)])
    assert ((seen >= 0) & (seen <= 1)).all()
    spread = np.ptp(seen, axis=0)
    assert (spread[:2] > 1e-3).all(), "uniform in the warm-up"
    if kind is TD3Agent:
        assert (spread[2:] < 1e-6).all(), "noise of that deviation around the actor"
    else:
        assert (spread[2:] > 1e-3).all(), "drawn from the policy"
        torch.manual_seed(1)
        first = model._sample_action(0, None, 4)[0]
        torch.manual_seed(1)
        np.testing.assert_array_equal(model._sample_action(0, None, 4)[0][2:], first[2:])


@pytest.mark.slow
@pytest.mark.long
@EACH
def test_no_files_stay_and_threads_come_back(
    kind: type[OffPolicyAgent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        search(kind(**SMALL), toy_task(sites=3, evaluations=12))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not list(tmp_path.iterdir())
    assert float(torch.tensor(1e-30) * torch.tensor(1e-10)) > 0


@EACH
def test_a_search_of_random_episodes_alone_says_so(kind: type[OffPolicyAgent]) -> None:
    said: list[str] = []
    task = toy_task(sites=3, evaluations=8)
    task.notify = said.append
    agent = kind(**SMALL, warmup_episodes=9)
    search(agent, task)
    (message,) = said
    assert message.startswith("all of its 8 episodes are random, as the first 9 are; raise")
    assert message.endswith(f"agents.{agent.name}.warmup_episodes")


@pytest.mark.parametrize("kind", [SACAgent, TQCAgent, CrossQAgent])
def test_the_temperature_is_led_to_the_entropy_asked_for(kind: type[EntropyAgent]) -> None:
    def temperature(**options: Any) -> float:
        model: Any = search(kind(**SMALL, **options), toy_task(sites=3, evaluations=16))
        assert model.target_entropy == options.get("target_entropy", -1.0)
        return float(model.log_ent_coef.detach().exp())

    rates: dict[str, Any] = {"temperature": 0.25, "temperature_lr": 0.05}
    assert temperature(target_entropy=-4.0, **rates) < 0.25
    assert temperature(target_entropy=0.69, **rates) > 0.25
    assert temperature(temperature_lr=0.0) == pytest.approx(0.01)


@EACH
def test_only_the_warm_up_may_be_left_to_the_horizon(kind: type[OffPolicyAgent]) -> None:
    nothing: Any = None
    with pytest.raises(InputError, match=r"\.hidden must be a whole number .* got None"):
        kind(hidden=nothing)
    assert kind(warmup_episodes=None).warmup_episodes is None


def test_tqc_keeps_a_quantile() -> None:
    task = toy_task(sites=3)
    agent = TQCAgent(critics=3, quantiles=5, dropped=4, hidden=16)
    model: Any = agent.model(task, PruningVecEnv(task))
    assert (model.critic.quantiles_total, model.critic.n_critics) == (15, 3)
    assert model.top_quantiles_to_drop_per_net == 4
    with pytest.raises(InputError, match=r"agents\.tqc\.dropped must be .* between 0 and 4"):
        TQCAgent(quantiles=5, dropped=5)


def test_crossq_has_normalised_critics_and_no_targets() -> None:
    task = toy_task(sites=3)
    agent = CrossQAgent(hidden=16, critic_hidden=24, momentum=0.5)
    model: Any = agent.model(task, PruningVecEnv(task))
    shapes = {name: p.shape for name, p in model.policy.named_parameters()}
    assert not any("target" in name for name in shapes)
    assert (24, 24) in shapes.values()
    assert (16, 16) in shapes.values()
    norms = [m for m in model.critic.modules() if type(m).__name__ == "BatchRenorm1d"]
    assert norms
    assert {m.momentum for m in norms} == {0.5}
