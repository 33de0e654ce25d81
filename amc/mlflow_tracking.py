"""MLflow as the tracker: one run a search. The only file that imports mlflow."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# MLflow reads these when it is imported. A server that is down must not hold a search up for the
# minutes that the client's own retries take.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import logging

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from amc.tracking import SQLITE, Status, flatten

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
IDENTITY_TAG = "amc.search"
FINAL = "final/"  # kept at step 0: MLflow draws bars of what has no other step, lines of the rest
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's limits
PARAM_LENGTH = 6000
LOCK_TIMEOUT_S = 120


class MlflowTracker:
    """One MLflow run, found again by ``identity`` when its search is resumed.

    Points and parameters that the run already has are not written twice, so a replayed search adds
    only what is new. ``artifacts`` is the folder for files when ``uri`` is a database.
    """

    def __init__(
        self, uri: str, experiment: str, run_name: str, identity: str, artifacts: Path
    ) -> None:
        self._run_name, self._identity = run_name, identity
        self._last_step: dict[str, int] = {}
        self._client, self._experiment_id = _open(uri, experiment, artifacts)
        self._run_id = ""

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the run, or the earlier one of the same identity."""
        known: set[str] = set()
        earlier = self._client.search_runs(
            [self._experiment_id], f"tags.`{IDENTITY_TAG}` = '{_quoted(self._identity)}'"
        )
        if earlier:
            self._run_id = earlier[0].info.run_id
            known = set(earlier[0].data.params)
            for key in earlier[0].data.metrics:
                history = self._client.get_metric_history(self._run_id, key)
                self._last_step[key] = max(point.step for point in history)
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment_id, run_name=self._run_name)
            self._run_id = run.info.run_id
        new = [Param(k, v[:PARAM_LENGTH]) for k, v in flatten(params).items() if k not in known]
        named = [RunTag(k, v) for k, v in {**tags, IDENTITY_TAG: self._identity}.items()]
        self._client.log_batch(self._run_id, params=new[:PARAMS_PER_CALL], tags=named)
        for start in range(PARAMS_PER_CALL, len(new), PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=new[start : start + PARAMS_PER_CALL])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one point of each of ``metrics``."""
        self.log_batch(step, [metrics])

    def log_batch(self, first_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Record ``rows[i]`` at step ``first_step + i``, in one transaction."""
        now_ms = int(time.time() * 1000)
        points = [
            Metric(key, float(value), now_ms, 0 if key.startswith(FINAL) else step)
            for step, row in enumerate(rows, start=first_step)
            for key, value in row.items()
            if key.startswith(FINAL) or step > self._last_step.get(key, -1)
        ]
        for start in range(0, len(points), METRICS_PER_CALL):
            self._client.log_batch(self._run_id, points[start : start + METRICS_PER_CALL])

    def artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts."""
        self._client.log_artifact(self._run_id, str(path))

    def finish(self, status: Status) -> None:
        """Close the run."""
        self._client.set_terminated(self._run_id, STATUS[status])


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


def _quoted(text: str) -> str:
    return text.replace("'", "_")
