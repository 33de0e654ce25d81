"""The judge of messages about bad files, judged by messages that lack something."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle import fault, fault_of_overrides, in_lines

OLD: dict[str, Any] = {"a": {"b": [1, 2], "c.d": 3}, "e": "x"}
NEW: dict[str, Any] = {"a": {"b": [1, "two"], "c.d": 3}, "e": "x"}


@pytest.mark.parametrize(
    "message",
    [
        "plan 'p.json': a.b.1 'two': input should be a number; write a number",
        "a.b [1, 'two'] must be numbers; write numbers",
        "a {'b': [1, 'two'], 'c.d': 3}: b is wrong; correct it",
        "a.b.1 'two': input should be a number; write a number\ne 'x' is short; lower it",
    ],
)
def test_a_message_that_says_it_all(message: str) -> None:
    assert fault(message, (OLD, NEW)) is None


@pytest.mark.parametrize(
    ("message", "lack"),
    [
        ("a.b.1 'two': input should be a number", "no remedy"),
        ("a.b.1 'two': input should be a number; it is not", "no remedy"),
        ("a.b.1 'two' is wrong; write a number\ne 'x' is wrong", "no remedy"),
        ("plan 'p.json' is wrong; restore it from a copy", "none of the fields"),
        ("e 'x' is wrong; write another one", "none of the fields"),
        ("a is wrong; write another one", "none of the fields"),
        ("aa.b.1 'two' is wrong; write another one", "none of the fields"),
        ("a.b.1 is wrong; write a number", "no value"),
        ("a.b.1 2 is wrong; write a number", "no value"),
        ("a.b is wrong at byte 3; write a number", "no value"),
    ],
)
def test_what_a_message_lacks(message: str, lack: str) -> None:
    assert lack in str(fault(message, (OLD, NEW)))


def test_a_key_that_is_missing_or_unknown_has_no_value() -> None:
    gone, more = {"e": "x"}, {**OLD, "f": {"g": 1}}
    assert fault("a is missing; add it", (OLD, gone)) is None
    assert fault("b is missing; add it", (OLD, gone)) is not None
    assert fault("f is not a known key; remove it", (OLD, more)) is None
    assert fault("f has something; remove it", (OLD, more)) is not None


def test_a_text_that_cannot_be_parsed_is_told_with_its_place() -> None:
    for where in ("JSON: expecting value, at byte 9", "YAML in line 3, column 4: expecting a key"):
        assert fault(f"plan 'p' is not readable {where}; correct it", None) is None
    assert fault("plan 'p' is not readable JSON: expecting value; correct it", None) is not None
    assert fault("plan 'p' is wrong at byte 9; correct it", None) is not None


def test_lines_are_told_by_their_byte() -> None:
    content, both = b'{"a": 1}\n{"a": 2}\n', ([{"a": 1}, {"a": 1}], [{"a": 1}, {"a": 2}])
    for message, lack in (
        ("f is corrupt at byte 9 (record 0: a is 2); restore it", None),
        ("f is corrupt at byte 9 (record 0: a is none); restore it", "no value"),
        ("f is corrupt at byte 9 (record 0: it is none); restore it", "none of the fields"),
        ("f is corrupt at byte 8 (record 0: a is 2); restore it", "begins no line"),
        ("f is corrupt (record 0: a is 2); restore it", "no byte"),
        ("f is corrupt at byte 9 (record 0: a is 2)", "no remedy"),
    ):
        assert (lack or "None") in str(in_lines(message, content, both))


def test_overrides_are_told_by_themselves_or_by_key_and_value() -> None:
    for message in ("--set 'a.b=5' is wrong; write it so", "a.b 5 is wrong; lower it"):
        assert fault_of_overrides(message, ["c=1", "a.b=5"]) is None
    for message in (
        "--set 'a=5' is wrong; write it so",
        "a.b is wrong; lower it",
        "a.b 5 is wrong",
    ):
        assert fault_of_overrides(message, ["c=1", "a.b=5"]) is not None
