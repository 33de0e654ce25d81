"""``amc sync``: what has not reached MLflow of a run, from its outbox or from its records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app
from amc.cli import application
from amc.config import parse_config
from amc.delivery import STATE
from amc.drain import left_in, only_one
from amc.errors import InputError
from amc.outbox_lines import FILE, read_entries
from tests.conftest import SMALL
from tests.deliveries import Said, record, until
from tests.fake_mlflow import FakeMlflow

pytestmark = pytest.mark.usefixtures("own_mlflow")

ROOT = Path(__file__).resolve().parent.parent
SECRET = "hunter2%2Fx"


def sync(*arguments: Any) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(application, ["sync", *map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout or "{}"), result.stderr


AWAY: dict[str, Any] = {"agents": {"random_search": {}, "uniform": {}}, "tracking_uri": None}


@pytest.mark.usefixtures("unmeasured", "digits_run")
@pytest.mark.slow
def test_a_run_whose_server_was_away_is_whole_after_sync_and_tells_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeMlflow(tmp_path / "artifacts").serving() as gone:
        port = gone.port
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{port}")
    run_dir, said = tmp_path / "run", Said()
    result = app.search(parse_config({**SMALL, **AWAY}), run_dir, said)
    assert all(0 < row["tracking_s"] < row["search_s"] for row in result["rows"])
    (message,) = [text for text in said.messages if "wait for MLflow" in text]
    code, facts, error = sync(run_dir)
    assert (code, facts["left"], facts["rows"][0]["delivered"]) == (1, facts["left"], 0)
    assert facts["left"] > 10
    assert f"at http://127.0.0.1:{port}: ConnectionRefusedError: [Errno" in error
    with FakeMlflow(tmp_path / "artifacts").serving(port) as fake:
        code, facts, error = sync(run_dir)
        assert (code, facts["left"], "error" in error) == (0, 0, False)
        assert [row["delivered"] == row["total"] for row in facts["rows"]] == [True, True]
        again = sync(run_dir)[1]["rows"]
        assert [row["delivered"] for row in again] == [0, 0]
        assert len(list((tmp_path / "artifacts").glob("*/plan.json"))) == 2
        histories = [run["metrics"] for run in fake.runs.values()]
        assert len(histories) == 2
        for row, metrics in zip(result["rows"], histories, strict=True):
            steps = [m["step"] for m in metrics if m["key"] == "best_score"]
            assert steps == list(range(1, row["evaluations"] + 1))
        assert fake.authorisation == {"Basic bWU6aHVudGVyMi94"}
    shown = [*said.messages, message, *capfd.readouterr(), error, json.dumps(facts)]
    files = [path.read_bytes() for path in run_dir.rglob("*") if path.is_file()]
    for secret in ("hunter2", "bWU6"):
        assert not any(secret in text for text in shown)
        assert not any(secret.encode() in content for content in files)


def test_a_password_in_a_configuration_is_refused_and_not_repeated(tmp_path: Path) -> None:
    uri = f"http://me:{SECRET}@127.0.0.1:1"
    with pytest.raises(InputError, match="MLFLOW_TRACKING_USERNAME and") as refused:
        parse_config({**SMALL, "tracking_uri": uri})
    assert "hunter2" not in str(refused.value)


def copied(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "copy"))


def test_a_run_without_tracking_is_taken_from_its_records(
    digits_run: Path, tmp_path: Path, fake: FakeMlflow
) -> None:
    run_dir = copied(digits_run, tmp_path)
    code, _, error = sync(run_dir)
    assert code == 2
    assert f"amc sync {run_dir} --tracking-uri URI" in error
    code, facts, _ = sync(run_dir, "--tracking-uri", fake.url)
    assert (code, facts["left"], facts["store"]) == (0, 0, fake.url)
    rows = json.loads((run_dir / "summary.json").read_text())
    rows.sort(key=lambda row: str(row["agent"]))
    for row, run in zip(rows, fake.runs.values(), strict=True):
        steps = [m["step"] for m in run["metrics"] if m["key"] == "score"]
        assert steps == list(range(1, row["evaluations"] + 1))
        final = {m["key"]: m["value"] for m in run["metrics"] if m["step"] == 0}
        assert final["final/search_accuracy"] == row["search_accuracy"]
        assert (run["tags"]["agent"], run["status"]) == (row["agent"], "FINISHED")
        assert run["params"]["agent.name"] == row["agent"]
    assert sync(run_dir, "--tracking-uri", fake.url)[1]["rows"][0]["delivered"] == 0


@pytest.mark.slow
def test_what_an_outbox_lacks_comes_from_journal_and_summary(
    digits_run: Path, tmp_path: Path, fake: FakeMlflow
) -> None:
    run_dir = copied(digits_run, tmp_path)
    assert sync(run_dir, "--tracking-uri", fake.url)[0] == 0
    whole = {key: list(run["metrics"]) for key, run in fake.runs.items()}
    outbox = run_dir / "ddpg-s0" / FILE
    content = outbox.read_bytes()
    entries = list(read_entries(outbox.parent))
    fake.runs.clear()
    (run_dir / "ddpg-s0" / STATE).unlink()
    outbox.write_bytes(content[: entries[0].end] + b'{"event":"poi')
    for other in run_dir.glob("[!d]*-s0"):
        shutil.rmtree(other)
        shutil.copytree(digits_run / other.name, other)
    assert sync(run_dir, "--tracking-uri", fake.url)[0] == 0

    def untimed(metrics: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(m["key"], m["step"], m["value"]) for m in metrics]

    assert [untimed(run["metrics"]) for run in fake.runs.values()] == [
        untimed(metrics) for metrics in whole.values()
    ]


def test_an_interrupted_run_is_delivered_and_closed(
    digits_run: Path, tmp_path: Path, fake: FakeMlflow
) -> None:
    run_dir = copied(digits_run, tmp_path)
    assert sync(run_dir, "--tracking-uri", fake.url)[0] == 0
    fake.runs.clear()
    for folder in run_dir.glob("*-s0"):
        content = (folder / FILE).read_bytes()
        entries = list(read_entries(folder))
        (folder / FILE).write_bytes(content[: entries[1].end])
        (folder / STATE).unlink()
    (run_dir / "summary.json").unlink()
    code, facts, _ = sync(run_dir, "--tracking-uri", fake.url)
    assert (code, facts["left"]) == (0, 0)
    assert {run["status"] for run in fake.runs.values()} == {"KILLED"}


def test_beside_another_that_delivers_it_says_so(
    digits_run: Path, tmp_path: Path, fake: FakeMlflow
) -> None:
    run_dir = copied(digits_run, tmp_path)
    record(run_dir / "ddpg-s0", 4)
    with only_one(run_dir) as mine:
        assert mine
        code, facts, error = sync(run_dir, "--tracking-uri", fake.url)
    assert (code, facts["busy"], facts["left"]) == (1, True, 7)
    assert "another process delivers them now" in error
    assert fake.calls == []


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured", "digits_run")
@pytest.mark.long
def test_a_real_server_that_stops_and_starts_again_has_everything_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from amc.ui import serve

    uri, run_dir = f"sqlite:///{tmp_path}/server.db", tmp_path / "run"
    with serve(uri) as first:
        port = int(first.url.rpartition(":")[2])
        url = first.url
    config = parse_config({**SMALL, "tracking_uri": url})
    app.search(config, run_dir, Said())
    assert left_in(run_dir, url)[0] == left_in(run_dir, url)[1] > 0
    process = None
    with serve(uri, port) as second:
        command = [sys.executable, "-m", "amc", "sync", str(run_dir)]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        until(lambda: 0 < left_in(run_dir, url)[0] < left_in(run_dir, url)[1])
        second.process.send_signal(signal.SIGSTOP)
        process.kill()  # in the middle of a call that may yet succeed
        process.wait()
        second.process.send_signal(signal.SIGCONT)
    assert sync(run_dir)[0] == 1
    with serve(uri, port):
        code, facts, _ = sync(run_dir)
        assert (code, facts["left"]) == (0, 0)
        assert sync(run_dir)[1]["left"] == 0
        client = MlflowClient(tracking_uri=url)
        experiment = client.get_experiment_by_name("amc")
        assert experiment is not None
        runs = {r.data.tags["agent"]: r for r in client.search_runs([experiment.experiment_id])}
        rows = json.loads((run_dir / "summary.json").read_text())
        assert len(runs) == len(rows) == 4
        for row in rows:
            number = runs[row["agent"]].info.run_id
            steps = [p.step for p in client.get_metric_history(number, "score")]
            assert steps == list(range(1, row["evaluations"] + 1))
            assert len(client.get_metric_history(number, "final/macs")) == 1
            assert runs[row["agent"]].info.status == "FINISHED"
