"""The reader of YAML, and limits of what configurations may hold: bounded work, plain words."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from yaml.composer import Composer
from yaml.scanner import Scanner

from amc import strict_yaml
from amc.config import changed, parse_config
from amc.errors import InputError
from amc.finetune_settings import parse_settings
from amc.printable import printable
from amc.strict_yaml import LIMITS, parse_yaml
from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parent.parent.parent


def bomb(levels: int) -> str:
    first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    rest = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels))
    return first + "".join(rest)


@pytest.mark.parametrize(
    "text",
    [
        bomb(30),
        "a: &a [*a]\n",
        "a: [" + "x, " * 20_000 + "]",
        "- x\n" * 20_000,
        "a: " + "[" * 90_000,
        "a: " + "{b: " * 20_000,
        "? " * 45_000,
    ],
)
def test_a_bomb_of_yaml_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    nodes = 0
    compose = Composer.compose_node

    def counted(self: Any, parent: Any, index: Any) -> Any:
        nonlocal nodes
        nodes += 1
        return compose(self, parent, index)

    monkeypatch.setattr(Composer, "compose_node", counted)
    with pytest.raises(InputError, match="not readable YAML in line"):
        parse_yaml(text, "config 'c.yaml'")
    assert 0 < nodes <= (2 if "&" in text else LIMITS.values), "aliases end it at the first anchor"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *b", "line 1: aliases are not allowed, nor anchors; write the value out"),
        ("x: 1\na: !!str 5", "line 2: the tag 'tag:yaml.org,2002:str' is not allowed"),
        ("a: !x 5", "the tag '!x' is not allowed; leave it out"),
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' stands twice; leave one out"),
        ("<<: {a: 1}", "merge keys"),
        ("[1]: 2", "a key must be text"),
        ("1: 2", "has a key 1, which is no text"),
        ("a: .inf", "a inf is not a finite number"),
        ("a: 1.0e+400", "a inf is not a finite number"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 99999999999999999999", "does not fit 64 bits"),
        ('a: "\\ud800"', "line 1, column 7: .*invalid Unicode"),
        ("a: \x1b[31m", "control characters are not allowed"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("a: '" + "x" * 100_001 + "'", "longer than 100000 characters"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "c.yaml")
    assert printable(str(caught.value)) == str(caught.value)
    assert "; " in str(caught.value)


def test_yaml_of_dates_and_equal_signs_is_text() -> None:
    assert parse_yaml("a: 2024-99-99\nb: =\nc: 1e3\nd: off", "x") == {
        **{"a": "2024-99-99", "b": "=", "c": "1e3", "d": False}
    }


def test_stages_of_the_command_line_are_read_as_strictly() -> None:
    for text in (bomb(20), "!!python/tuple [0.5, 1]", "[" * 5_000):
        with pytest.raises(InputError, match=r"stages .* is not readable YAML.*; "):
            parse_settings({"stages": text})


@pytest.mark.parametrize(
    "override",
    [
        *("a.b=&a [*a]", "task=!!python/name:os.system", "seeds=[" + "1," * 9_000 + "]"),
        *(".".join("a" * 30_000) + "=1", "=1", "a..b=1", "task", "task.x=1", "x={a: 1, a: 2}"),
        "agents.ddpg={a: {b: {c: {d: {e: 1}}}}}",
    ],
)
def test_overrides_are_read_as_strictly(override: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(SMALL, [override])
    assert len(str(caught.value)) < 2_000
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": list(range(1001))}, "seeds .* at most 1000 items .*; shorten it"),
        ({"agents": {f"a{i}": {} for i in range(101)}}, "agents .* at most 100 items"),
        ({"agents": {"ddpg": {"x": float("nan")}}}, "agents.ddpg: x nan is not a finite number"),
        ({"agents": {"ddpg": {"x": list(range(300))}}}, "agents.ddpg: x holds more than 200"),
        ({"agents": {"ddpg": {"x": "y" * 300}}}, "agents.ddpg: x 'yyy.* longer than 200"),
        ({"sites": {"exclude": ["x"] * 1001}}, "sites.exclude .* at most 1000 items"),
        ({"sites": {"patterns": ["x"] * 101}}, "sites.patterns .* at most 100 items"),
        ({"evaluations": 10**9}, "evaluations 1000000000: .*; lower it"),
        ({"horizon": 10**9}, "horizon 1000000000: .*; lower it"),
        ({"data_folder": "a\0b"}, r"data_folder 'a\\x00b': must be printable"),
        ({"data_folder": "x" * 5000}, "data_folder 'xxx.* at most 4096 characters"),
        ({"experiment": "\x1b]0;evil\x07"}, r"experiment '\\x1b\]0;evil\\x07': must be printable"),
        ({"\x1b[2J": 1}, r"'\\x1b\[2J' is not a known key"),
        ({"budget": {f"b{i}": 0.5 for i in range(101)}}, "budget .* at most 100 items"),
    ],
)
def test_a_configuration_has_limits(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config({**SMALL, **change})


def test_a_thousand_mistakes_are_told_in_a_few_lines() -> None:
    with pytest.raises(InputError) as caught:
        parse_config({**SMALL, "seeds": ["x"] * 900})
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 880 fields more; correct these first"


def without_libyaml() -> ModuleType:
    """Return the reader as it is where yaml was built without its C library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "yaml.cyaml", None)
        spec = importlib.util.spec_from_file_location("plain_yaml", strict_yaml.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_the_reader_is_the_same_without_libyaml() -> None:
    plain = without_libyaml()
    assert Scanner in plain._PlainLoader.__mro__
    assert Scanner not in strict_yaml._PlainLoader.__mro__, "it takes a hundred times as long"
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        assert plain.read_yaml(path, "x") == strict_yaml.read_yaml(path, "x")
    for text in (bomb(3), "a: &a [*a]", "a: !x 5", "a: 1\na: 2", "a: 1\n---\nb: 2"):
        said = []
        for reader in (plain, strict_yaml):
            with pytest.raises(InputError) as caught:
                reader.parse_yaml(text, "c.yaml")
            said.append(str(caught.value).partition(":")[0])
        assert said[0] == said[1]
