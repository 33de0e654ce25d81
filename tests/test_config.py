from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amc.app import load_config
from amc.config import SearchConfig, changed, load_yaml, parse_config
from amc.errors import InputError
from amc.kernels.dense import Dense

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
        ({"data": "some"}, "data 'some'"),
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
        load_yaml(file, "config"),
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
        load_yaml(file, "config")


def test_digest_ignores_what_cannot_change_the_result() -> None:
    config = SearchConfig(**GOOD)
    assert config.digest == config.model_copy(update={"workers": 2}).digest
    assert config.digest != config.model_copy(update={"evaluations": 61}).digest


@pytest.mark.parametrize("agents", [[""], ["uniform", "uniform"]])
def test_agents_of_the_command_line_are_names_each_once(agents: list[str]) -> None:
    with pytest.raises(InputError, match="must name"):
        changed(GOOD, agents=agents)


def test_a_refused_seed_is_one_message() -> None:
    with pytest.raises(InputError) as caught:
        changed(GOOD, seed=-1)
    assert str(caught.value) == "seeds.0 -1: input should be greater than or equal to 0"


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
