"""Named points at which a test lets this process die, as ``kill -9`` or a power cut would.

``AMC_CRASH_AT=NAME:N`` in the environment ends the process without a word when it comes to the
point ``NAME`` for the ``N``-th time. Without it, a point costs a look at the environment.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "AMC_CRASH_AT"
POINTS = (
    "folder.created",  # the run folder is there, nothing is evaluated yet
    "evaluation.finished",  # one of a batch is scored, the others may be under way
    "journal.before_append",  # a batch is evaluated, none of it is on disk
    "journal.before_sync",  # written, maybe not on disk
    "journal.after_sync",  # on disk, the agent has not seen it
    "search.batch_seen",  # tracked and shown; the agent goes on next
    "search.ended",  # before the winners are tested
    "result.plan_written",  # a plan is there, the summary is not
    "summary.written",
)
_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Die here where the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    if name not in POINTS:
        raise ValueError(f"{name!r} is no crash point; those are {', '.join(POINTS)}")
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
