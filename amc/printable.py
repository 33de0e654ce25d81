"""Text of strangers as it is shown: short, on a line, and without orders to the terminal."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any

SHOWN = 60  # characters of a refused value
_WORD = re.compile(r"[\w:/+\[\]-]{1,100}")

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple = 3, 8, 12, 12
_short.maxstring, _short.maxother, _short.maxlong = SHOWN, SHOWN, SHOWN


def printable(text: str, most: int | None = None, keep: str = "") -> str:
    """Return ``text`` with control characters escaped, cut to ``most`` characters.

    Characters of ``keep`` stay as they are, such as line ends.
    """
    cut = text if most is None or len(text) <= most else text[: most - 3] + "..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in cut)


def shown(value: Any) -> str:
    """Return ``value`` as Python writes it, at most ``SHOWN`` characters, whatever its size."""
    try:
        text = _short.repr(value)
    except ValueError:  # a whole number of too many digits to be written
        text = f"a number of {value.bit_length()} bits"
    return printable(text, SHOWN)


def dotted(parts: Iterable[Any]) -> str:
    """Return the name of a field from its parts; those that are no plain word are quoted."""
    words = (str(part) for part in parts)
    return ".".join(w if _WORD.fullmatch(w) else shown(w) for w in words)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
