"""Registries are literal dicts of ``"module:Name"`` strings, loaded on use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from amc.errors import InputError
from amc.printable import shown


def nearest(name: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or ``""``."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def lookup(registry: Mapping[str, str], name: str, field: str) -> Any:
    """Import and return what ``registry[name]`` names.

    Raises ``InputError`` with the known names and the nearest one when ``name`` is not registered.
    """
    if name not in registry:
        known = ", ".join(registry)
        hint = nearest(name[:200], list(registry))
        remedy = f"{hint} Known: {known}" if hint else f"; choose one of {known}"
        raise InputError(f"{field} {shown(name)} is unknown{remedy}")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
