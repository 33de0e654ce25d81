"""MLflow as the store: one run a search. The only file that imports mlflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# MLflow reads these when it is imported. Whoever delivers tries again by itself, and asks first
# what has arrived; the client's own retries would only hold it up, for minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import logging

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException, RestException

from amc.delivery import METRICS_PER_CALL
from amc.errors import InputError
from amc.outbox_lines import Entry
from amc.printable import shown
from amc.store_uri import SQLITE, parts
from amc.tracking import flatten

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
IDENTITY_TAG = "amc.search"
FINAL_STEP = 0  # MLflow draws bars of metrics that have no other step, lines of the rest
PARAMS_PER_CALL = 100  # MLflow's limit
PARAM_LENGTH = 6000
LOCK_TIMEOUT_S = 120
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class MlflowRecord:
    """One MLflow run, made or found again by the identity that the entry ``start`` has.

    What the run has already is asked when it is opened, and is not written twice: neither when a
    search is replayed, nor when an answer was lost. ``artifacts`` is the folder for files when
    ``uri`` is a database.
    """

    def __init__(self, uri: str, start: Entry, artifacts: Path) -> None:
        values = start.values
        self._identity = str(values["identity"])
        self._last_step: dict[str, int] = {}
        self._final: set[tuple[str, int, float]] = set()
        self._client, self._experiment_id = _open(uri, values["experiment"], artifacts)
        run = self._find() or self._adopt(values.get("formerly")) or self._create(start)
        self._run_id: str = run.info.run_id
        self._refused = foreign_folder(uri, run.info.artifact_uri)
        self._read_back(run)
        known = run.data.params
        flat = flatten(values["params"])
        new = [Param(k, v[:PARAM_LENGTH]) for k, v in flat.items() if k not in known]
        for first in range(0, len(new), PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=new[first : first + PARAMS_PER_CALL])

    def points(self, entries: Sequence[Entry]) -> None:
        """Record the metrics of ``points`` entries, one transaction for each thousand."""
        points = [
            Metric(key, value, entry.time_ms, step)
            for entry in entries
            for step, row in enumerate(entry.values["rows"], start=entry.values["first_step"])
            for key, value in row.items()
            if step > self._last_step.get(key, -1)
        ]
        for first in range(0, len(points), METRICS_PER_CALL):
            self._client.log_batch(self._run_id, points[first : first + METRICS_PER_CALL])
        self._last_step.update({point.key: point.step for point in points})

    def final(self, entry: Entry) -> None:
        """Record metrics that have no step."""
        named = {(key, entry.time_ms, value) for key, value in entry.values["metrics"].items()}
        new = sorted(named - self._final)
        metrics = [Metric(key, value, time_ms, FINAL_STEP) for key, time_ms, value in new]
        self._client.log_batch(self._run_id, metrics)
        self._final |= named

    def artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts, over an earlier copy.

        Raises ``InputError`` where a server elsewhere names a folder of this machine for them.
        """
        if self._refused:
            raise InputError(self._refused)
        self._client.log_artifact(self._run_id, str(path))

    def status(self, entry: Entry) -> None:
        """Close the run, or open it again; a run made twice by a lost answer goes at the end."""
        if entry.event == "resume":
            self._client.update_run(self._run_id, status="RUNNING")
            return
        self._client.set_terminated(self._run_id, STATUS[entry.values["status"]], entry.time_ms)
        self._find()

    def _find(self) -> Run | None:
        """Return the run of this identity, the fullest of several; the others are deleted.

        There may be several where a server made a run but its answer came too late to be seen.
        """
        found = sorted(self._tagged(self._identity), key=_emptiness)
        for run in found[1:]:
            self._client.delete_run(run.info.run_id)
        return found[0] if found else None

    def _adopt(self, identity: str | None) -> Run | None:
        """Return the run that an earlier version made, now of this identity."""
        for run in self._tagged(identity) if identity else ():
            self._client.set_tag(run.info.run_id, IDENTITY_TAG, self._identity)
            return run
        return None

    def _create(self, start: Entry) -> Run:
        return self._client.create_run(
            self._experiment_id,
            start_time=start.time_ms,
            tags={**start.values["tags"], IDENTITY_TAG: self._identity},
            run_name=start.values["run_name"],
        )

    def _tagged(self, identity: str) -> Iterator[Run]:
        quoted = identity.replace("'", "_")
        yield from self._client.search_runs(
            [self._experiment_id], f"tags.`{IDENTITY_TAG}` = '{quoted}'"
        )

    def _read_back(self, run: Run) -> None:
        for key in run.data.metrics:
            history = self._client.get_metric_history(self._run_id, key)
            self._final |= {(key, p.timestamp, p.value) for p in history if p.step == FINAL_STEP}
            self._last_step[key] = max(point.step for point in history)


def is_refusal(error: Exception) -> bool:
    """Return whether a store that works refused the one thing asked of it."""
    known = isinstance(error, RestException) or type(error) is MlflowException
    return known and 400 <= error.get_http_status_code() < 500  # type: ignore[attr-defined]


def foreign_folder(uri: str, artifacts: str) -> str:
    """Return why files are not copied to ``artifacts``, which the store ``uri`` names, else "".

    MLflow's client would write to any path of this machine that a server asks for.
    """
    server, folder = urlsplit(uri), urlsplit(artifacts)
    elsewhere = server.scheme in {"http", "https"} and server.hostname not in LOOPBACK
    if not elsewhere or folder.scheme not in {"", "file"}:
        return ""
    return (
        f"the server {parts(uri).public} asks for artifacts to be written to {shown(artifacts)}, a "
        "folder of this machine; start it with --serve-artifacts, or sync to another one"
    )


def _emptiness(run: Run) -> tuple[int, int, str]:
    return -len(run.data.metrics), -len(run.data.params), run.info.run_id


def _open(uri: str, experiment: str, artifacts: Path) -> tuple[MlflowClient, str]:
    """Return a client of the store, and the experiment's id, both created where they were not.

    Two processes that create one database at the same time break it for good, hence the lock; so
    does one that is interrupted, hence the rename.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if not uri.startswith(SQLITE):
        return _client(uri, experiment, None)
    file = Path(uri.removeprefix(SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=LOCK_TIMEOUT_S):
        if not file.exists():
            _create_database(file, artifacts)
        return _client(uri, experiment, artifacts)


def _create_database(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # A fresh folder each time: MLflow keeps connections by path, to deleted files as well.
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
        unfinished = Path(folder) / file.name
        store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            f"{SQLITE}{unfinished}", artifacts.resolve().as_uri()
        )
        store.engine.dispose()
        unfinished.rename(file)


def _client(uri: str, experiment: str, artifacts: Path | None) -> tuple[MlflowClient, str]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return client, found.experiment_id
    location = None if artifacts is None else (artifacts / experiment).resolve().as_uri()
    return client, client.create_experiment(experiment, artifact_location=location)
