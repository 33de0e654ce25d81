"""What one piece of work came to where it has no score, and why."""

from __future__ import annotations

import math
import os
import re
import tempfile
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["not_finite", "error", "out_of_memory", "timeout", "worker_died"]
# Of torch's allocators, which raise plain RuntimeErrors.
OUT_OF_MEMORY = ("can't allocate memory", "DefaultCPUAllocator", "out of memory")
LONGEST = 300  # characters of an exception's message
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")


@dataclass(frozen=True)
class Failure:
    """Why there is no score. Failures that are equal have one cause, as far as can be told.

    So ``reason`` names what depends on the plan only where the exception itself does. What may
    differ between equal runs, such as the worker, never stands there: addresses in memory and names
    of temporary files are masked, and then ``raised`` has the text as it was.
    """

    kind: Kind
    reason: str
    raised: str = field(default="", compare=False)


class NotFinite(ValueError):
    """A score, or weights, that are no finite numbers."""


class TimedOut(BaseException):
    """Raised in the middle of work that takes too long; no ``except Exception`` holds it up."""


def failure_of(error: BaseException) -> Failure:
    """Return what an exception in the midst of an evaluation means."""
    if isinstance(error, TimedOut):
        return Failure("timeout", str(error))
    if isinstance(error, NotFinite):
        return Failure("not_finite", str(error))
    message = " ".join(str(error).split()) or "no message"
    if isinstance(error, MemoryError) or any(sign in message for sign in OUT_OF_MEMORY):
        return Failure("out_of_memory", "out of memory, in a clean worker too")
    name, stable = type(error).__name__, _stable(message)
    raised = "" if stable == message else f"{name}: {message[:LONGEST]}"
    return Failure("error", f"{name}: {stable[:LONGEST]}", raised)


def _stable(message: str) -> str:
    """Return ``message`` with what differs between equal runs masked."""
    folder = tempfile.gettempdir()
    for path in dict.fromkeys([os.path.realpath(folder), folder]):
        message = re.sub(rf"{re.escape(path)}/[^/\s'\"]+", "<temporary>", message)
    return ADDRESS.sub("0x...", message)


def too_slow(seconds: float) -> Failure:
    """Return the failure of an evaluation that took longer than ``seconds``."""
    return Failure("timeout", f"no score within {seconds:g} s (evaluation_timeout_s)")


def as_score(value: object) -> float:
    """Return what a score function gave; ``NotFinite`` unless it is a finite number."""
    if isinstance(value, float | int) and math.isfinite(value):
        return value
    if isinstance(value, float):
        shown = f"{value:g}"
    elif hasattr(value, "shape"):
        shown = f"a {type(value).__name__} of shape {list(value.shape)}"
    else:
        shown = "None" if value is None else f"a {type(value).__name__}"
    raise NotFinite(f"the score is {shown}, not a finite number")
