"""Refusing input with amc's own error where it is there, for ``amc.latency`` also stands alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def refused(text: str) -> ValueError:
    """Return ``amc.errors.InputError(text)``, or a plain ``ValueError`` where it is missing."""
    try:
        from amc.errors import InputError
    except ImportError:
        return ValueError(text)
    return InputError(text)


def read_json(path: Path, what: str, size: int, remedy: str) -> Any:
    """Return the value of a JSON file of at most ``size`` bytes, by amc's strict reader if there.

    ``remedy`` is what a refusal says to do. Raises an ``OSError``, or what ``refused`` returns.
    """
    try:
        from amc.strict_json import Limits, read_json
    except ImportError:
        import json

        return json.loads(path.read_text(encoding="utf-8"))
    return read_json(path, what, Limits(size=size, values=size // 2, remedy=remedy))


def meant(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or ``""``."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """Return ``value`` as Python writes it, cut where it is long."""
    try:
        from amc.printable import shown
    except ImportError:
        return repr(value)[:60]
    return shown(value)


def dotted(place: Iterable[str | int]) -> str:
    """Return the name of a field from its parts."""
    try:
        from amc.printable import dotted
    except ImportError:
        return ".".join(map(str, place))
    return dotted(place)
