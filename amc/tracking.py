"""Where a search's numbers are kept for comparison: a tiny interface, MLflow far behind it.

The journal is the record of a search; tracking is a copy for people. So nothing here may end,
change or delay a search: its numbers go to a file beside the journal (``amc.outbox``), from which
a process of its own delivers them to MLflow (``amc.drain``), now or on ``amc sync``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from amc.store_uri import OFF, chosen, parts

if TYPE_CHECKING:
    from amc.earlier_outbox import Continued

Status = Literal["finished", "failed", "interrupted"]


class Tracker(Protocol):
    """Receives one search: its parameters, then metrics by step, files, and how it ended."""

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the record; nested ``params`` become dotted names."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one point of each of ``metrics``; those called ``final/...`` have no step."""
        ...

    def log_batch(self, first_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Record ``rows[i]`` at step ``first_step + i``, all at once."""
        ...

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file."""
        ...

    def finish(self, status: Status) -> None:
        """Close the record."""
        ...


class NullTracker:
    """Keeps nothing."""

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_batch(self, first_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Do nothing."""

    def artifact(self, path: Path) -> None:
        """Do nothing."""

    def finish(self, status: Status) -> None:
        """Do nothing."""


class TimedTracker:
    """Another tracker, whose calls are timed: ``spent_s`` is the sum, in seconds."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self.spent_s = 0.0

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Start the other tracker."""
        with self._timed():
            self._tracker.start(params, tags)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one point of each of ``metrics``."""
        with self._timed():
            self._tracker.log(step, metrics)

    def log_batch(self, first_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Record ``rows[i]`` at step ``first_step + i``, all at once."""
        with self._timed():
            self._tracker.log_batch(first_step, rows)

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file."""
        with self._timed():
            self._tracker.artifact(path)

    def finish(self, status: Status) -> None:
        """Close the record."""
        with self._timed():
            self._tracker.finish(status)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - begin


def open_tracker(
    folder: Path,
    *,
    experiment: str,
    run_name: str,
    warn: Callable[[str], None],
    uri: str | None = None,
    continued: Continued | None = None,
) -> Tracker:
    """Return the tracker of the search in ``folder``, which writes to that folder's outbox alone.

    ``uri`` is a tracking URI, ``"off"``, or ``None``: then ``MLFLOW_TRACKING_URI``, else a database
    beside the run folder. A search that is resumed goes on in the record it had; one that is
    ``continued`` elsewhere has one a journal.
    """
    from amc.earlier_outbox import set_apart
    from amc.outbox import OutboxTracker

    store = chosen(uri)
    if store == OFF:
        return NullTracker()
    public = None if store is None else parts(store).public
    if continued is None:
        return OutboxTracker(folder, experiment, run_name, public, warn)
    set_apart(folder, continued, warn)
    return OutboxTracker(folder, experiment, run_name, public, warn, continued.journals)


@contextmanager
def tracked(tracker: Tracker) -> Iterator[Tracker]:
    """Close the tracker at the end with what became of its search."""
    try:
        yield tracker
    except KeyboardInterrupt:
        tracker.finish("interrupted")
        raise
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("finished")


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters under dotted names; whatever is not text becomes JSON."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{key}"] = text
    return flat
