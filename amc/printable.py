"""Text as it is shown: short, on a line, without orders to the terminal and without passwords."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any

SHOWN = 60  # characters of a refused value
_WORD = re.compile(r"[\w:/+\[\]-]{1,100}")

# Who is named before the host of a URL; of a database in a file there is no host.
_USER = re.compile(r"(?!sqlite)(\b[\w+.-]{1,30}://)[^\s'\"]{0,2000}@")
_LONG = 10_000  # characters that are looked through, of one value


class _Short(reprlib.Repr):
    def repr_str(self, x: str, level: int) -> str:
        """Return text in quotes, cut in its middle, after passwords have gone from it."""
        return super().repr_str(unnamed(x if len(x) <= _LONG else x[:_LONG] + "..."), level)


_short = _Short()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple = 3, 8, 12, 12
_short.maxstring, _short.maxother, _short.maxlong = SHOWN, SHOWN, SHOWN


def unnamed(text: str) -> str:
    """Return ``text`` with whoever is named in URLs replaced by ``***``: it may be a password."""
    return _USER.sub(r"\1***@", text) if "://" in text else text


def printable(text: str, most: int | None = None, keep: str = "") -> str:
    """Return ``text`` without passwords, control characters escaped, cut to ``most`` characters.

    Characters of ``keep`` stay as they are, such as line ends.
    """
    text = unnamed(text if most is None else text[: most + _LONG])
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
