"""Reading JSON that a stranger may have written: bounded work, plain values, one meaning.

Standard library alone. Whatever is refused is an ``InputError`` that names the file, the field or
the byte, and what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from amc.errors import InputError
from amc.printable import dotted, printable, shown

MB = 1_000_000
KEY_LENGTH = 1_000
LARGEST_INT = 2**63 - 1  # what other languages can read back
_SURROGATE = re.compile("[\ud800-\udfff]")
_Place = tuple[Any, str | int] | None  # (the place of the container, key or index in it)


@dataclass(frozen=True)
class Limits:
    """The most that one document may have: bytes, values, levels, and characters of one string."""

    size: int = 64 * MB
    values: int = 5_000_000
    depth: int = 32
    text: int = 100_000
    remedy: str = "write it again, or restore it from a copy"


LIMITS = Limits()


def read_bytes(path: Path, what: str, most: int, remedy: str = LIMITS.remedy) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes; ``InputError`` else.

    ``what`` says which file it is, such as ``plan``. No pipe and no device is opened.
    """
    name = f"{what} {printable(repr(str(path)))}"
    if not path.is_file():
        raise InputError(f"{name} is not a file; check the path")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{name} is larger than {most} bytes, as no {what} is; {remedy}")
    return content


def read_json(path: Path, what: str, limits: Limits = LIMITS) -> Any:
    """Return the value in a JSON file; ``InputError`` as of ``read_bytes`` and ``parse_json``."""
    content = read_bytes(path, what, limits.size, limits.remedy)
    return parse_json(content, f"{what} {printable(repr(str(path)))}", limits)


def parse_json(content: bytes, name: str, limits: Limits = LIMITS, offset: int = 0) -> Any:
    """Return the value of a JSON document; ``InputError`` begins with ``name``.

    Refused are whatever is not strict JSON in UTF-8 (NaN and Infinity, a comma too many), a key
    twice in one object, numbers beyond 64 bits or too large for a float, NUL and lone surrogates in
    text, and what is beyond ``limits``. ``offset`` is where ``content`` begins in its file: errors
    name the byte in that.
    """
    if len(content) > limits.size:
        raise InputError(f"{name} is larger than {limits.size} bytes; {limits.remedy}")
    if sum(map(content.count, (b",", b"[", b"{"))) > limits.values:
        raise InputError(f"{name} holds more than {limits.values} values; {limits.remedy}")

    def refuse(why: str, byte: int | None = None) -> NoReturn:
        where = f", at byte {offset + (byte or 0)}" if byte is not None or offset else ""
        raise InputError(f"{name} is not readable JSON: {why}{where}; {limits.remedy}") from None

    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_each_key_once, parse_constant=float)
    except UnicodeDecodeError as error:
        refuse("it is not UTF-8", error.start)
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        refuse(f"{error.msg[:1].lower()}{error.msg[1:]}", byte)
    except RecursionError:
        refuse("it is nested too deep")
    except ValueError as error:
        refuse("a number has too many digits" if "digits" in str(error) else str(error))
    check_plain(value, name, limits)
    return value


def check_plain(value: Any, name: str, limits: Limits = LIMITS) -> None:
    """Raise ``InputError`` unless ``value`` is made of plain JSON values, within ``limits``.

    Numbers must be finite and whole ones fit 64 bits; keys are text.
    """
    left = limits.values
    stack: list[tuple[Any, _Place, int]] = [([value], None, 0)]
    while stack:
        container, place, depth = stack.pop()
        items: Iterable[tuple[Any, Any]] = (
            container.items() if isinstance(container, dict) else enumerate(container)
        )
        left -= len(container)
        if left < 0:
            _refuse(name, place, f"holds more than {limits.values} values", limits)
        for key, item in items:
            kind = type(item)
            if kind is dict or kind is list:
                if depth >= limits.depth:
                    _refuse(name, place, f"is nested too deep (over {limits.depth})", limits)
                stack.append((item, (place, key), depth + 1))
            elif fault := _fault(item, kind, limits.text):
                _refuse(name, (place, key), fault, limits)
            if type(key) is not int or isinstance(container, dict):
                _check_key(key, name, place, limits)


def _check_key(key: Any, name: str, place: _Place, limits: Limits) -> None:
    if not isinstance(key, str):
        _refuse(name, place, f"has a key {shown(key)}, which is no text", limits)
    if fault := _fault(key, str, KEY_LENGTH):
        _refuse(name, place, f"has a key {fault}", limits)


def _fault(item: Any, kind: type, longest: int) -> str | None:
    """Return what is wrong with a value that holds no others, or ``None``."""
    if kind is int:
        return f"{shown(item)} does not fit 64 bits" if abs(item) > LARGEST_INT else None
    if kind is float:
        return f"{item} is not a finite number" if item - item != 0 else None
    if kind is str:
        if len(item) > longest:
            return f"{shown(item)} is longer than {longest} characters"
        bad = "\0" in item or (not item.isascii() and _SURROGATE.search(item))
        return f"{shown(item)} holds characters that are no text" if bad else None
    if item is None or kind is bool:
        return None
    return f"{shown(item)} is of type {kind.__name__}, not text, a number or true or false"


def _refuse(name: str, place: _Place, why: str, limits: Limits) -> NoReturn:
    parts: list[str | int] = []
    while place is not None:
        place, key = place
        parts.append(key)
    field = dotted(reversed(parts[:-1]))  # the outermost holds the document alone
    raise InputError(f"{name}: {field or 'the document'} {why}; {limits.remedy}")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} stands twice in one object")
    return value
