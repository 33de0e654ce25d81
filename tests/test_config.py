from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.netadapt import NetAdaptAgent
from amc.app import load_config, make_agent
from amc.config import SearchConfig, changed, parse_config
from amc.errors import InputError
from amc.kernels.dense import Dense
from amc.session import facts_of
from amc.strict_yaml import read_yaml

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
GOOD: dict[str, Any] = {"task": "digits", "budget": {"macs": 0.5}, "agents": {"uniform": {}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tsk": "digits"}, "tsk is not a known key; did you mean 'task'"),
        ({"budget": {"mac": 0.5}}, "did you mean 'macs'"),
        ({"budget": {"macs": 0.5, "params": 0.5}}, "exactly one of"),
        ({"budget": {"macs": 1.5}}, "budget.macs 1.5"),
        ({"budget": {"macs": float("nan")}}, "budget.macs nan"),
        ({"evaluations": 0}, "evaluations 0"),
        ({"evaluations": "many"}, "evaluations 'many'"),
        ({"sites": {"round_to": 0}}, "sites.round_to 0"),
        ({"agents": {}}, "at least one agent"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [0, 1, 0]}, "seeds [0, 1, 0] must list"),
        ({"agents": ["uniform", "uniform"]}, "must name each agent once"),
        ({"experiment": "../x"}, "without slashes"),
        ({"recovery": "hope"}, "recovery 'hope'"),
        ({"short_term": {"steps": 5}}, "short_term.steps is not a known key"),
        ({"short_term": {"learning_rate": 0}}, "short_term.learning_rate 0"),
        ({"data": "some"}, "data 'some'"),
        ({"evaluation_steps": 5, "racing": True}, "evaluation_steps 5 and racing exclude each"),
        ({"device": "cuda"}, "'cuda' is not built yet"),
    ],
)
def test_bad_configurations_name_field_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config({**GOOD, **change})
    assert message in str(caught.value)


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("task: digits\nbudget: {macs: 0.5}\nagents: [uniform]\n")
    config = changed(
        read_yaml(file, "config"),
        ["sites.round_to=8", "budget.params=0.4"],
        agents=["ddpg"],
        seed=3,
        workers=0,
    )
    assert config.sites.round_to == 8
    assert config.budget == {"params": 0.4}
    assert list(config.agents) == ["ddpg"]
    assert config.seeds == (3,)
    assert config.workers == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "aliases are not allowed"),
        ("!!python/object/apply:os.system ['true']\n", "not readable YAML"),
        ("[1, 2]\n", "must hold keys and values"),
        ("a: [1\n", "not readable YAML"),
        ("a: " + "[" * 20_000, "nested too deep"),
    ],
)
def test_hostile_and_broken_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(file, "config")


def test_digest_ignores_what_cannot_change_the_result() -> None:
    config = SearchConfig(**GOOD)
    assert config.digest == config.model_copy(update={"workers": 2}).digest
    assert config.digest != config.model_copy(update={"evaluations": 61}).digest


def test_the_short_terms_recipe_counts_only_where_it_is_another() -> None:
    default, other = (
        parse_config({**GOOD, "short_term": section}) for section in ({}, {"learning_rate": 1e-3})
    )
    assert default.digest == parse_config(GOOD).digest != other.digest
    old = {"steps": 0, "batch_size": 64, "learning_rate": 0.02, "weight_decay": 5e-4}
    old |= {"warmup_steps": 0, "augment": False}
    assert facts_of(default.short_term.build()) == old, "the header of older journals"
    assert facts_of(other.short_term.build()) == {**old, "learning_rate": 1e-3}
    plain = parse_config({**GOOD, "short_term": {"nesterov": False, "cosine": False}})
    assert facts_of(plain.short_term.build()) == {**old, "nesterov": False, "cosine": False}


def test_the_published_constants_of_netadapt_are_a_configuration() -> None:
    config = load_config(str(EXPERIMENTS / "netadapt_published.yaml"))
    schedule = config.short_term.build()
    assert (schedule.learning_rate, schedule.batch_size, schedule.weight_decay) == (1e-3, 128, 1e-4)
    assert (schedule.nesterov, schedule.cosine) == (False, False)
    agent = make_agent("netadapt", config.agents["netadapt"])
    assert isinstance(agent, NetAdaptAgent)
    assert (agent.schedule, agent.step, agent.decay) == ("published", 0.025, 0.96)
    assert (agent.rule, agent.short_term_steps) == ("ratio", 500)
    assert config.sites.criterion == "magnitude_l2"


@pytest.mark.parametrize("agents", [[""], ["uniform", "uniform"]])
def test_agents_of_the_command_line_are_names_each_once(agents: list[str]) -> None:
    with pytest.raises(InputError, match="must name"):
        changed(GOOD, agents=agents)


def test_a_refused_seed_is_one_message() -> None:
    with pytest.raises(InputError) as caught:
        changed(GOOD, seed=-1)
    assert str(caught.value) == "seeds.0 -1: input should be greater than or equal to 0; raise it"


def test_rounding_to_the_kernel_is_its_number_from_then_on() -> None:
    config = parse_config({**GOOD, "sites": {"round_to": "kernel"}})
    block = Dense.channel_block()
    assert block in {4, 8, 16}
    assert config.sites.round_to == block
    assert config.digest == parse_config({**GOOD, "sites": {"round_to": block}}).digest
    assert parse_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(("capability", "block"), [("AVX512", 16), ("AVX2", 8), ("DEFAULT", 4)])
def test_the_kernels_block_is_a_vector(
    monkeypatch: pytest.MonkeyPatch, capability: str, block: int
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert Dense.channel_block() == block


def test_a_bare_off_is_the_word() -> None:
    assert changed(GOOD, ["tracking_uri=off"]).tracking_uri == "off"
    assert "tracking_uri" not in GOOD


def test_a_tasks_name_takes_the_same_changes() -> None:
    config = load_config("digits", ["evaluations=7"], task="resnet8", agents=["uniform"], seed=2)
    assert (config.task, config.evaluations, config.seeds) == ("resnet8", 7, (2,))
    assert list(config.agents) == ["uniform"]
