"""Tracking: the tiny interface, its failure that ends nothing, and MLflow behind it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amc.errors import InputError
from amc.tracking import (
    NullTracker,
    SafeTracker,
    Status,
    Tracker,
    absolute,
    default_store,
    flatten,
    open_tracker,
    store_of,
    tracked,
)

ROOT = Path(__file__).resolve().parent.parent


class BrokenTracker(NullTracker):
    """Fails at every metric, as a full disk would make it."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        raise OSError("no space left\nby the way")


def tracker_of(run_dir: Path, warnings: list[str], **options: Any) -> Tracker:
    return open_tracker(
        run_dir, experiment="digits", run_name="ddpg-s0", warn=warnings.append, **options
    )


@pytest.fixture(autouse=True)
def _no_store_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


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


def test_a_failure_is_told_once_and_ends_nothing() -> None:
    warnings: list[str] = []
    tracker = SafeTracker(BrokenTracker, warnings.append)
    tracker.start({}, {})
    for step in range(3):
        tracker.log(step, {"score": 0.5})
    tracker.finish("finished")
    assert len(warnings) == 1
    assert "OSError: no space left)" in warnings[0]
    assert "the search goes on" in warnings[0]


def test_the_first_end_of_a_record_stays() -> None:
    ends: list[str] = []

    class Ending(NullTracker):
        def finish(self, status: Status) -> None:
            ends.append(status)

    with tracked(SafeTracker(Ending, print)) as tracker:
        tracker.start({}, {})
        tracker.finish("failed")
    assert ends == ["failed"]


def test_a_store_that_cannot_be_opened_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    warnings: list[str] = []
    tracker = tracker_of(tmp_path / "run", warnings, uri=f"sqlite:///{tmp_path}/blocked/x.db")
    tracker.start({"task": "digits"}, {"agent": "ddpg"})
    tracker.log_batch(1, [{"score": 0.5}])
    tracker.finish("failed")
    assert len(warnings) == 1


def test_interruption_passes_through() -> None:
    def interrupted() -> Tracker:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeTracker(interrupted, print).start({}, {})


def test_off_keeps_nothing(tmp_path: Path) -> None:
    tracker_of(tmp_path / "run", [], uri="off").start({}, {})
    assert list(tmp_path.iterdir()) == []


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


def record(run_dir: Path, evaluations: int) -> list[str]:
    """Track a search of ``evaluations`` from its start, as a replay does; return warnings."""
    warnings: list[str] = []
    tracker = tracker_of(run_dir, warnings)
    tracker.start({"task": "digits", "agent": {"sigma0": 0.5}}, {"agent": "ddpg"})
    for first in range(1, evaluations + 1, 2):
        tracker.log_batch(first, [{"score": first / 10}, {"score": (first + 1) / 10}])
    tracker.log(evaluations, {"final/score": evaluations / 10})
    plan = run_dir / "plan.json"
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_text("{}")
    tracker.artifact(plan)
    tracker.finish("finished")
    return warnings


def test_mlflow_holds_one_run_a_search_and_a_resumed_one_adds_to_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "quickstart"
    assert record(run_dir, 4) == []
    assert record(run_dir, 6) == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_store(run_dir))
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "runs/mlartifacts/digits").as_uri()
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "ddpg-s0"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"task": "digits", "agent.sigma0": "0.5"}
    assert run.data.tags["agent"] == "ddpg"
    points = client.get_metric_history(run.info.run_id, "score")
    assert [(p.step, p.value) for p in points] == [(i, i / 10) for i in range(1, 7)]
    assert run.data.metrics["final/score"] == 0.6
    assert {p.step for p in client.get_metric_history(run.info.run_id, "final/score")} == {0}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["plan.json"]


@pytest.mark.slow
def test_searches_that_start_together_share_one_new_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from amc.tracking import open_tracker\n"
        "t = open_tracker(Path(sys.argv[1]), experiment='e', run_name=sys.argv[2], warn=sys.exit)\n"
        "t.start({'task': 'digits'}, {}); t.log(1, {'score': 0.5}); t.finish('finished')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    pair = [
        subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.PIPE) for name in ("a", "b")
    ]
    answers = [(process.communicate()[1], process.returncode) for process in pair]
    assert [code for _, code in answers] == [0, 0], answers
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_store(tmp_path / "run"))
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


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
    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            record(run_dir, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db.lock"]
    assert record(run_dir, 2) == []
