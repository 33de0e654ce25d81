"""Refusing input with amc's own error where it is there, for ``amc.latency`` also stands alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def refused(text: str) -> ValueError:
    """Return ``amc.errors.InputError(text)``, or a plain ``ValueError`` where it is missing."""
    try:
        from amc.errors import InputError
    except ImportError:
        return ValueError(text)
    return InputError(text)


def meant(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or ``""``."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
