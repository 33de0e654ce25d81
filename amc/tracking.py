"""Where a search's numbers are kept for comparison: a tiny interface, MLflow behind it.

The journal is the record of a search; tracking is a copy for people. So nothing here may end or
change a search: what fails is said once, and the search goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from amc.errors import InputError

Status = Literal["finished", "failed", "interrupted"]
DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
OFF = "off"


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


class SafeTracker:
    """Another tracker, made by ``make`` at the start, whose first failure is its last word.

    The failure is given to ``warn`` as one line; everything after it is dropped.
    """

    def __init__(self, make: Callable[[], Tracker], warn: Callable[[str], None]) -> None:
        self._make, self._warn = make, warn
        self._tracker: Tracker = NullTracker()

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Make the other tracker, and start it."""

        def make_and_start() -> None:
            self._tracker = self._make()
            self._tracker.start(params, tags)

        self._attempt(make_and_start)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one point of each of ``metrics``."""
        self._attempt(lambda: self._tracker.log(step, metrics))

    def log_batch(self, first_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Record ``rows[i]`` at step ``first_step + i``, all at once."""
        self._attempt(lambda: self._tracker.log_batch(first_step, rows))

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file."""
        self._attempt(lambda: self._tracker.artifact(path))

    def finish(self, status: Status) -> None:
        """Close the record; whatever comes after it is dropped, a second end too."""
        self._attempt(lambda: self._tracker.finish(status))
        self._tracker = NullTracker()

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a store may raise, a search outlives it
            self._tracker = NullTracker()
            reason = str(error).strip().splitlines() or [""]
            self._warn(
                f"warning: tracking stopped ({type(error).__name__}: {reason[0][:200]}); "
                "the search goes on, its journal and plan are complete without it"
            )


def open_tracker(
    run_dir: Path,
    *,
    experiment: str,
    run_name: str,
    warn: Callable[[str], None],
    uri: str | None = None,
) -> Tracker:
    """Return the tracker of the search ``run_name`` of ``run_dir``; MLflow is loaded at its start.

    ``uri`` is a tracking URI, ``"off"``, or ``None``: then ``MLFLOW_TRACKING_URI``, else a database
    beside the run folder. A search that is resumed goes on in the record it had.
    """
    store = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_store(run_dir)
    if store == OFF:
        return NullTracker()
    root = run_dir.resolve()

    def make() -> Tracker:
        from amc.mlflow_tracking import MlflowTracker

        return MlflowTracker(
            uri=absolute(store),
            experiment=experiment,
            run_name=run_name,
            identity=f"{root}/{run_name}",
            artifacts=root.parent / "mlartifacts",
        )

    return SafeTracker(make, warn)


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


def default_store(run_dir: Path) -> str:
    """Return the URI of the database beside ``run_dir``, shared by all runs of that folder."""
    return f"{SQLITE}{run_dir.resolve().parent / DATABASE}"


def absolute(uri: str) -> str:
    """Return ``uri``, with the file of a relative sqlite URI made absolute."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def store_of(run_dir: Path | None, db: str | None) -> str:
    """Return the tracking URI that ``amc ui`` shows; ``InputError`` where there is none.

    ``db`` is a URI or a database file; else the database in or beside ``run_dir`` is taken, else
    ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    if db is not None and "://" in db:
        return absolute(db)
    if db is not None:
        candidates = [Path(db)]
    elif run_dir is not None:
        candidates = [run_dir / DATABASE, run_dir.resolve().parent / DATABASE]
    elif environment:
        return absolute(environment)
    else:
        candidates = [Path("runs") / DATABASE]
    for path in candidates:
        if path.is_file():
            return f"{SQLITE}{path.resolve()}"
    looked = " and ".join(str(path) for path in candidates)
    raise InputError(
        f"no database of runs at {looked}; name one with --db, or run `amc search` first"
    )


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
