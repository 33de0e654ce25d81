"""Files of amc with something wrong in them: a value exchanged, a key gone, bytes flipped."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

CANARY = "canary"


HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 2**31, 2**63, 10**30, 1e308, -1e308),
    *(float("nan"), float("inf"), "", " ", "x" * 3000, "\x1b[31m\x1b]0;x\x07", "a\0b", "\ud800"),
    *("../../x", "/etc/passwd", "..\\x", "%2e%2e/x", "~/x", f"$(touch {CANARY})", "$\\frac{"),
    *("{{7*7}}", "os:abort", "!!python/name:os.system", "\u202eevil", "1e999", "nan", "off"),
    *([], {}, [[]], {"": {}}, ["x"] * 2000, [0] * 3000, {"__class__": "os.system"}),
    *({str(i): i for i in range(500)}, [[[[[[[[[[[[]]]]]]]]]]]]),
]


SNIPPETS = [
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"NaN", b"-Infinity", b"1e999", b"9" * 5000),
    *(b"[" * 3000, b"{" * 300, b'{"a":' * 3000, b"&a ", b"*a", b"<<: ", b"!!python/tuple []"),
    *(b"\n---\n", b'"\\ud800"', b"\\u0000", b",", b":", b"\n", b"\r\n", b"\t", b"#", b"|\n"),
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a value with a key or an index in it, but of long lists a few."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 8))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def mutated_value(value: Any, draw: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = list(places(value)) if isinstance(value, (dict, list)) else []
        if not found:
            return draw.choice(HOSTILE)
        container, key = draw.choice(found)
        act = draw.randrange(5)
        if act == 0:
            del container[key]
        elif act == 1 and isinstance(container, dict):
            name = draw.choice(("x", "../x", "\x1b[1m", "a\0", "y" * 2000, "__class__", key))
            container[name] = copy.deepcopy(draw.choice(HOSTILE))
        elif act == 2:
            other, place = draw.choice(found)
            if place in other if isinstance(other, dict) else place < len(other):
                container[key] = copy.deepcopy(other[place])
        elif act == 3 and isinstance(container[key], list):
            container[key] = container[key] * draw.choice((0, 2, 300))
        else:
            container[key] = copy.deepcopy(draw.choice(HOSTILE))
    return value


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        act = draw.randrange(5)
        if act == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif act == 1:
            del data[at : at + draw.randrange(1, 40)]
        elif act == 2:
            data[at:at] = data[at : at + draw.randrange(1, 40)]
        elif act == 3:
            data[at:at] = draw.choice(SNIPPETS)
        else:
            del data[at:]
    return bytes(data)
