"""Tracking: stores and their secrets, and MLflow, which holds each search once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from amc.delivery import counts
from amc.drain import Drain
from amc.errors import InputError
from amc.store_uri import absolute, authorised, chosen, default_store, masked, parts, store_of
from amc.tracking import NullTracker, TimedTracker, flatten, open_tracker

ROOT = Path(__file__).resolve().parent.parent
SECRET = "hunter2%2Fx"


@pytest.fixture(autouse=True)
def _no_store_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def test_nested_parameters_become_dotted() -> None:
    params: dict[str, Any] = {
        "task": "digits",
        "agent": {"sigma0": 0.5, "options": {}},
        "exclude": [],
        "h": None,
    }
    assert flatten(params) == {
        "task": "digits",
        "agent.sigma0": "0.5",
        "agent.options": "{}",
        "exclude": "[]",
        "h": "null",
    }


def test_the_time_of_calls_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr("amc.tracking.time.perf_counter", lambda: next(clock))
    tracker = TimedTracker(NullTracker())
    tracker.start({}, {})
    tracker.log(1, {"score": 0.5})
    tracker.log_batch(2, [{"score": 0.5}])
    tracker.artifact(Path("plan.json"))
    tracker.finish("finished")
    assert tracker.spent_s == 15


def test_store_is_absolute_and_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_store(Path("runs/quickstart")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert absolute("sqlite:///mine.db") == f"sqlite:///{tmp_path}/mine.db"
    assert absolute("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_store_of_finds_what_the_person_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    with pytest.raises(InputError, match=r"runs/mlflow\.db; name one with --db"):
        store_of(None, None)
    (tmp_path / "runs" / "mlflow.db").touch()
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert store_of(None, None) == uri
    assert store_of(Path("runs"), None) == uri
    assert store_of(Path("runs/quickstart"), None) == uri
    assert store_of(None, "runs/mlflow.db") == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert store_of(None, None) == "http://127.0.0.1:1"


def test_a_store_asked_for_goes_before_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chosen(None) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@now/x")
    assert chosen(None) == f"http://me:{SECRET}@now/x"
    assert chosen("http://asked") == "http://asked"
    assert chosen("http://now/x") == f"http://me:{SECRET}@now/x", "the password for it is known"


@pytest.mark.parametrize(
    ("uri", "public", "secret"),
    [
        (f"https://me:{SECRET}@host:1/x", "https://host:1/x", True),
        (f"https://{SECRET}@host", "https://host", True),
        ("http://me:hunter2/x@host", "http://host", True),
        (f"postgresql+psycopg://me:{SECRET}@h/db", "postgresql+psycopg://me@h/db", True),
        (f"mysql://h/db?ssl=1&password={SECRET}", "mysql://h/db?ssl=1", True),
        (f"mysql://h/db?sslpassword={SECRET}", "mysql://h/db", True),
        ("postgresql://me@h/db", "postgresql://me@h/db", False),
        ("sqlite:////tmp/a:b@c/x.db", "sqlite:////tmp/a:b@c/x.db", False),
        ("databricks", "databricks", False),
        ("off", "off", False),
    ],
)
def test_what_is_shown_of_a_store_has_no_secret(uri: str, public: str, secret: bool) -> None:
    assert (parts(uri).public, bool(parts(uri).secrets)) == (public, secret)
    text = masked(f"cannot reach {uri} or '{uri}', with hunter2/x", uri)
    assert ("hunter2" in text) is not secret


def test_a_password_goes_to_a_web_server_by_mlflows_own_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "other")
    with authorised(f"http://me:{SECRET}@host") as uri:
        assert uri == "http://host"
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hunter2/x"
        assert masked("refused hunter2/x") == "refused ***"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "other"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    with authorised("postgresql://me:pw@host/db") as uri:
        assert uri == "postgresql://me:pw@host/db"


def record(folder: Path, evaluations: int) -> None:
    """Track a search of ``evaluations`` from its start, as a replay does."""
    folder.mkdir(parents=True, exist_ok=True)
    tracker = open_tracker(folder, experiment="digits", run_name="ddpg-s0", warn=pytest.fail)
    tracker.start({"task": "digits", "agent": {"sigma0": 0.5}}, {"agent": "ddpg"})
    for first in range(1, evaluations + 1, 2):
        tracker.log_batch(first, [{"score": first / 10}, {"score": (first + 1) / 10}])
    tracker.log(evaluations, {"final/score": evaluations / 10})
    (folder / "plan.json").write_text("{}")
    tracker.artifact(folder / "plan.json")
    tracker.finish("finished")


def deliver(run_dir: Path) -> str | None:
    return Drain(run_dir, default_store(run_dir)).round(lambda *_: None)


def runs_of(run_dir: Path) -> tuple[Any, Sequence[Any]]:
    """Return a client of the run's database, and the runs of its one experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_store(run_dir))
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.artifact_location == (run_dir.parent / "mlartifacts/digits").as_uri()
    return client, client.search_runs([experiment.experiment_id])


def test_mlflow_holds_one_run_a_search_and_a_resumed_one_adds_to_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "quickstart"
    folder = run_dir / "ddpg-s0"
    for evaluations in (4, 6):
        record(folder, evaluations)
        assert deliver(run_dir) is None
        (folder / "outbox.delivered.json").unlink()  # then MLflow alone knows
        assert deliver(run_dir) is None
    client, (run,) = runs_of(run_dir)
    assert run.info.run_name == "ddpg-s0"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"task": "digits", "agent.sigma0": "0.5"}
    assert run.data.tags["agent"] == "ddpg"
    points = client.get_metric_history(run.info.run_id, "score")
    assert [(p.step, p.value) for p in points] == [(i, i / 10) for i in range(1, 7)]
    finals = client.get_metric_history(run.info.run_id, "final/score")
    assert [(p.step, p.value) for p in finals] == [(0, 0.4), (0, 0.6)]
    assert run.data.metrics["final/score"] == 0.6
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["plan.json"]


def test_a_store_that_cannot_be_opened_is_named_and_loses_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    record(run_dir / "ddpg-s0", 4)
    (tmp_path / "blocked").write_text("a file where a folder should be")
    uri = f"sqlite:///{tmp_path}/blocked/x.db"
    trouble = Drain(run_dir, uri).round(lambda *_: None)
    assert trouble is not None
    assert "blocked" in trouble
    assert counts(run_dir / "ddpg-s0", uri) == (0, 6, trouble)


@pytest.mark.long
@pytest.mark.slow
def test_runs_that_end_together_share_one_new_database(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / name / "ddpg-s0", 2)
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", "amc.drain", str(tmp_path / name)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in ("a", "b")
    ]
    for process in pair:
        assert process.stdin is not None
        process.stdin.write(b"end\n")
        process.stdin.flush()
    assert [process.wait(timeout=120) for process in pair] == [0, 0]
    for process in pair:
        process.communicate()
    assert len(runs_of(tmp_path / "a")[1]) == 2


def test_a_database_whose_creation_was_interrupted_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic.operations import Operations

    real, seen = Operations.create_table, iter(range(100))

    def interrupted(self: Operations, *args: Any, **options: Any) -> Any:
        if next(seen) == 3:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    run_dir = tmp_path / "run"
    record(run_dir / "ddpg-s0", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            deliver(run_dir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db.lock", "run"]
    assert deliver(run_dir) is None


@pytest.mark.parametrize(
    ("uri", "artifacts", "refused"),
    [
        ("https://me:hunter2@elsewhere/x", "file:///home/me/.config", True),
        ("http://elsewhere:5000", "/home/me/.config", True),
        ("http://elsewhere:5000", "mlflow-artifacts:/1/2/artifacts", False),
        ("http://elsewhere:5000", "s3://bucket/1", False),
        ("http://127.0.0.1:5000", "file:///home/me/mlartifacts", False),
        ("sqlite:////home/me/mlflow.db", "file:///home/me/mlartifacts", False),
    ],
)
def test_no_server_elsewhere_chooses_a_folder_of_this_machine(
    uri: str, artifacts: str, refused: bool
) -> None:
    from amc.mlflow_tracking import foreign_folder

    told = foreign_folder(uri, artifacts)
    assert bool(told) is refused
    assert ("start it with --serve-artifacts" in told) is refused
    assert "hunter2" not in told
