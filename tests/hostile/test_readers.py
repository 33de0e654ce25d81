"""Readers of JSON, YAML and binary files: what is refused, in which words, with bounded work."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from torch import Tensor, nn

from amc.cli.answer import say
from amc.cli.tables import console, new_table
from amc.config import changed, parse_config
from amc.correctness import read_correctness, write_correctness
from amc.data import Data
from amc.errors import InputError
from amc.finetune_checkpoint import Progress, read_checkpoint, write_checkpoint
from amc.finetune_settings import parse_settings
from amc.latency import LatencyTable
from amc.masks import load_masked, read_masked
from amc.printable import printable, shown
from amc.registry import lookup
from amc.strict_json import Limits, check_plain, parse_json, read_json
from amc.strict_yaml import LIMITS, parse_yaml
from amc.training import Schedule, Trainer
from amc.weights import read_state
from amc.zoo.data import read_split
from tests.conftest import SMALL
from tests.hostile.corpus import safetensors

SMALL_LIMITS = Limits(size=10_000, values=100, depth=4, text=50)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' stands twice in one object"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b'{"a": [1e999]}', r"x: a\.0 inf is not a finite number"),
        (b'{"a": 9223372036854775808}', "a 9223372036854775808 does not fit 64 bits"),
        (b"9" * 5000, "a number has too many digits"),
        (b'{"a": "\xff"}', "it is not UTF-8, at byte 7;"),
        (b'{"a": "\xed\xa0\x80"}', "it is not UTF-8, at byte 7;"),
        (b'{"a": "\\ud800"}', r"a '\\ud800' holds characters that are no text"),
        (b'{"a\\u0000": 1}', r"a key 'a\\x00' holds characters that are no text"),
        (b'{"a": "x\0"}', "invalid control character.*, at byte 8;"),
        (b'{"\xc3\xa9": 1,}', ", at byte 9;"),
        (b"\xef\xbb\xbf{}", "at byte 0;"),
        (b"[[[[[1]]]]]", r"x: 0\.0\.0 is nested too deep"),
        (b"[" * 9_000, "holds more than 100 values"),
        (b'["' + b"x" * 51 + b'"]', "is longer than 50 characters"),
        (b"[" + b"1," * 101 + b"1]", "holds more than 100 values"),
        (b" " * 10_001, "larger than 10000 bytes"),
        (b"", "at byte 0;"),
        (b"{} {}", "at byte 3;"),
    ],
)
def test_json_that_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_json(content, "x", SMALL_LIMITS)
    assert str(caught.value).startswith("x")
    assert str(caught.value).endswith("; write it again, or restore it from a copy")


def test_json_that_is_nested_beyond_what_python_reads_is_refused() -> None:
    for content in (b"[" * 500_000, b'{"a":' * 200_000):
        with pytest.raises(InputError, match="nested too deep"):
            parse_json(content, "x")


def test_json_that_is_read() -> None:
    text = '{"a": [1, -2.5, true, null, "é 𝄞", 9223372036854775807], "": {}}'
    assert parse_json(text.encode(), "x") == json.loads(text)
    assert parse_json(b'"\\ud834\\udd1e"', "x") == "𝄞", "a pair of surrogates is a character"


def test_an_offset_is_that_of_the_file() -> None:
    with pytest.raises(InputError, match="at byte 1002;"):
        parse_json(b"[1 2]", "journal", offset=999)


def test_only_plain_values_are_plain() -> None:
    for value in ({1: 2}, {"a": (1,)}, {"a": b""}, [object()]):
        with pytest.raises(InputError, match="no text|of type"):
            check_plain(value, "x")


def test_a_file_of_json_is_a_file_and_not_too_large(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(InputError, match="is not a file; check the path"):
            read_json(path, "plan")
    (tmp_path / "large").write_bytes(b" " * 10_001)
    with pytest.raises(InputError, match="plan .*large' is larger than 10000 bytes"):
        read_json(tmp_path / "large", "plan", SMALL_LIMITS)


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
    compose = yaml.SafeLoader.compose_node

    def counted(self: Any, parent: Any, index: Any) -> Any:
        nonlocal nodes
        nodes += 1
        return compose(self, parent, index)

    monkeypatch.setattr(yaml.SafeLoader, "compose_node", counted)
    with pytest.raises(InputError, match="not readable YAML in line"):
        parse_yaml(text, "config 'c.yaml'")
    assert nodes <= (2 if "&" in text else LIMITS.values), "aliases end it at the first anchor"


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
        ('a: "\\ud800"', "no text"),
        ("a: \x1b[31m", "special characters are not allowed"),
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


def test_stages_of_the_command_line_are_read_as_strictly() -> None:
    for text in (bomb(20), "!!python/tuple [0.5, 1]", "[" * 5_000):
        with pytest.raises(InputError, match=r"stages .* is not readable YAML.*; "):
            parse_settings({"stages": text})


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


def test_what_is_shown_is_short_and_gives_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31mred\x1b]0;title\x07\u202e\r"
    assert shown(evil).isprintable()
    assert len(shown({"k" * 10_000: ["x" * 10_000] * 10_000})) <= 60
    assert len(shown(10**5000)) <= 60
    say(f"error: {evil}\nnext")
    told = capsys.readouterr().err
    assert told.count("\n") == 2
    assert all(c.isprintable() or c == "\n" for c in told)
    table = new_table("agent")
    table.add_row(evil)
    console().print(table)
    console().print(evil)
    assert not {"\x1b", "\x07", "\u202e"} & set(capsys.readouterr().out)
    with pytest.raises(InputError) as caught:
        lookup({"a": "b:c"}, evil * 1000, "agents")
    assert len(str(caught.value)) < 200


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8)


def masked(**change: Any) -> dict[Any, Any]:
    state: dict[Any, Any] = {
        "fc.weight_orig": torch.ones(8, 4),
        "fc.weight_mask": torch.ones(8, 4),
        "fc.bias": torch.zeros(8),
    }
    return {**state, **change.get("keys", {})}


@pytest.mark.parametrize(
    "keys",
    [
        {1: torch.ones(2)},
        {"fc.bias": torch.ones(8, dtype=torch.complex64)},
        {"fc.bias": torch.ones(8).to_sparse()},
        {"fc.bias": torch.ones(8, device="meta")},
        {"fc.bias": [1.0]},
        {("a",): torch.ones(2)},
    ],
)
def test_states_of_other_things_than_plain_tensors(tmp_path: Path, keys: dict[Any, Any]) -> None:
    torch.save(masked(keys=keys), tmp_path / "x.pt")
    with pytest.raises(InputError, match="plain tensors by name|not readable|holds more than"):
        read_masked(tmp_path / "x.pt")


def test_a_tensor_that_claims_to_be_huge_is_refused_before_it_is_made(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(2**40)  # one number in the file
    torch.save(masked(keys={"fc.weight_orig": huge, "fc.weight_mask": huge}), tmp_path / "x.pt")
    with pytest.raises(InputError, match="has 1099511627776 values, more than any tensor"):
        load_masked(Tiny(), read_masked(tmp_path / "x.pt"))


def test_a_compressed_archive_is_no_state(tmp_path: Path) -> None:
    torch.save(masked(), tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("archive/data/9", b"\0" * 5_000_000)
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(InputError, match="it is compressed, as torch.save never does"):
        read_masked(tmp_path / "bomb.pt")


def test_weights_must_be_finite_numbers(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for value in (np.nan, np.inf):
        save_file({"a": np.full(3, value, np.float32)}, path)
        with pytest.raises(InputError, match="a holds what is no finite number; restore"):
            read_state(path)
    path.write_bytes(
        safetensors({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"\0\0")
    )
    with pytest.raises(InputError, match="; restore the file"):
        read_state(path)


def trainer() -> Trainer:
    schedule = Schedule(steps=2, batch_size=2, learning_rate=0.1)
    data = Data(torch.randn(6, 4), torch.zeros(6, dtype=torch.int64))
    return Trainer(nn.Linear(4, 2), data, schedule, 0)


CHANGES: dict[str, Any] = {
    "stage": -1,
    "step": "1",
    "checks": [{"stage": 0}],
    "ends": [3],
    "train_s": float("inf"),
    "notes": [1],
    "extra": 1,
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_checkpoint_of_impossible_facts_is_refused(tmp_path: Path, key: str) -> None:
    path, value = tmp_path / "c.safetensors", CHANGES[key]
    identity = {"plan": "0" * 64, "data": "0" * 64, "settings": {}}
    progress = Progress()
    write_checkpoint(path, identity, progress, {"order": torch.arange(2)})
    assert read_checkpoint(path).identity == identity
    if key == "extra":
        write_checkpoint(path, {**identity, "plan": "x"}, progress, {})
    else:
        write_checkpoint(path, identity, replace(progress, **{key: value}), {})
    with pytest.raises(InputError, match="cannot be read .*; start again in another folder"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "order", [torch.tensor([0, 99]), torch.tensor([-1]), torch.tensor([0.5]), torch.ones(2, 2)]
)
def test_a_checkpoint_names_examples_that_are_there(order: Tensor) -> None:
    one = trainer()
    with pytest.raises(ValueError, match="order"):
        one.load({**one.state(), "order": order}, 1)


def test_bits_of_more_images_than_there_are(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_correctness(path, {"dense": np.ones(10, np.bool_)})
    content = path.read_bytes().replace(b'\\"images\\": 10}', b'\\"images\\": 9999999999}')
    length = int.from_bytes(content[:8], "little") + 8
    path.write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(InputError, match="not those of 9999999999 images"):
        read_correctness(path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"\0" * 16 + b"\0" * 784, b"\0" * 8 + b"\0\0"),
        (b"\0" * 16 + b"\0" * 783, b"\0" * 8 + b"\0"),
        (b"\0" * 16 + b"\0" * 784, b"\0" * 8 + b"\x0b"),
        (b"\0" * 9_000, b"\0" * 8 + b"\0"),
    ],
)
def test_images_that_do_not_fit_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: bytes, labels: bytes
) -> None:
    monkeypatch.setattr("amc.zoo.data.LARGEST", 2_000)  # of what a file grows to
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(InputError, match="t10k does not hold as many images"):
        read_split(tmp_path, "t10k")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="not readable gzip"):
        read_split(tmp_path, "t10k")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema_version": 2, "threads": 1e999}', "9" * 5000]
)
def test_a_table_nobody_can_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match="t.json is corrupt.*amc measure"):
        LatencyTable.load(tmp_path / "t.json")
