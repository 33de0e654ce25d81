"""The reader of JSON, and what is shown of a stranger's text: bounded work, plain words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amc.cli.answer import say
from amc.cli.tables import console, new_table
from amc.errors import InputError
from amc.printable import shown
from amc.registry import lookup
from amc.strict_json import Limits, check_plain, parse_json, read_json

SMALL_LIMITS = Limits(size=10_000, values=100, depth=4, text=50)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' stands twice in one object"),
        (b'{"a": NaN}', r"x: a nan is not a finite number"),
        (b"[-Infinity]", "0 -inf is not a finite number"),
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
