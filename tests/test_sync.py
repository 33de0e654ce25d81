"""``amc sync`` and the drain beside a run: nothing lost and nothing twice, whatever MLflow does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app, drain_process, finish
from amc.cli import application
from amc.config import parse_config
from amc.delivery import STATE
from amc.drain import QUIET, Drain, left_in, only_one
from amc.drain_process import draining
from amc.errors import InputError
from amc.outbox_entries import FILE, entries_of
from amc.reporting import SilentReporter
from amc.tracking import open_tracker
from tests.conftest import SMALL
from tests.fake_mlflow import FakeMlflow

ROOT = Path(__file__).resolve().parent.parent
SECRET = "hunter2%2Fx"


class Said(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeMlflow]:
    with FakeMlflow(tmp_path / "artifacts").serving() as server:
        yield server


def record(folder: Path, evaluations: int, status: str | None = "finished") -> None:
    """Track a search of ``evaluations``, one a batch, as its replay does too."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"run/{folder.name}"
    tracker = open_tracker(folder, experiment="digits", run_name=name, warn=pytest.fail)
    tracker.start({"task": "digits", "agent": {"sigma0": 0.5}}, {"agent": "ddpg"})
    for step in range(1, evaluations + 1):
        tracker.log_batch(step, [{"score": step / 10}])
    if status is not None:
        tracker.log(evaluations, {"final/score": evaluations / 10})
    tracker.finish("finished" if status else "interrupted")


def rounds(run_dir: Path, uri: str, most: int = 100) -> int:
    """Deliver, each time by a drain that knows nothing, until all is there; return the failures."""
    for failed in range(most):
        if Drain(run_dir, uri).round(lambda *_: None) is None:
            return failed
    raise AssertionError(f"not delivered in {most} rounds")


def assert_exact(fake: FakeMlflow, evaluations: int, runs: int = 1) -> None:
    assert len(fake.runs) == runs
    assert fake.points() == [(i, i / 10) for i in range(1, evaluations + 1)] * runs
    assert fake.points("final/score") == [(0, evaluations / 10)] * runs
    for run in fake.runs.values():
        assert run["status"] == "FINISHED"
        assert run["params"] == {"task": "digits", "agent.sigma0": "0.5"}


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize("mode", ["error", "lose"])
def test_each_call_failing_once_leaves_exact_counts(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("amc.delivery.METRICS_PER_CALL", 3)
    record(tmp_path / "run" / "ddpg-s0", 10)
    endpoints = ("experiments/get-by-name", "experiments/create", "runs/search", "runs/create")
    for endpoint in (*endpoints, "runs/log-batch", "metrics/get-history", "runs/update"):
        fake.failures[endpoint] = [mode, "work", mode, mode, "work", "work", mode]
    assert rounds(tmp_path / "run", fake.url) > 10
    assert_exact(fake, 10)


def test_a_drain_that_dies_between_delivery_and_its_note_sends_nothing_twice(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amc.delivery.METRICS_PER_CALL", 3)
    record(tmp_path / "run" / "ddpg-s0", 10)
    real, died = Path.replace, 0

    def dies(self: Path, target: Path) -> Path:
        nonlocal died
        if Path(target).name == STATE and died % 2 == 0:
            died += 1
            raise KeyboardInterrupt
        died += Path(target).name == STATE
        return real(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    for _ in range(100):
        try:
            assert rounds(tmp_path / "run", fake.url) == 0
            break
        except KeyboardInterrupt:
            continue
    assert died > 10
    assert_exact(fake, 10)


def test_a_run_made_twice_by_a_late_answer_goes(tmp_path: Path, fake: FakeMlflow) -> None:
    record(tmp_path / "run" / "ddpg-s0", 4)
    start = json.loads((tmp_path / "run" / "ddpg-s0" / FILE).read_text().splitlines()[0])
    real, late = fake.answer, iter([True])

    def answer(endpoint: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if endpoint == "runs/log-batch" and next(late, False):
            tag = {"key": "amc.search", "value": start["identity"]}
            real("runs/create", {"experiment_id": "1", "tags": [tag]})
        return real(endpoint, asked)

    fake.answer = answer  # type: ignore[method-assign]
    assert rounds(tmp_path / "run", fake.url) == 0
    assert_exact(fake, 4)


def test_the_run_that_an_earlier_version_made_is_gone_on_with(
    tmp_path: Path, fake: FakeMlflow
) -> None:
    folder = tmp_path / "run" / "ddpg-s0"
    record(folder, 4)
    rounds(tmp_path / "run", fake.url)
    (made,) = fake.runs.values()
    made["tags"]["amc.search"] = f"{tmp_path}/run/run/ddpg-s0"
    (folder / FILE).unlink()
    (folder / "journal.jsonl").write_text("{}\n{}\n")
    record(folder, 6)
    rounds(tmp_path / "run", fake.url)
    (again,) = fake.runs.values()
    assert again is made
    assert fake.points() == [(i, i / 10) for i in range(1, 7)]


def test_what_a_store_refuses_holds_up_no_other_search(tmp_path: Path, fake: FakeMlflow) -> None:
    for name in ("a-s0", "b-s0"):
        record(tmp_path / "run" / name, 4)
    first = json.loads((tmp_path / "run" / "a-s0" / FILE).read_text().splitlines()[0])
    real = fake.answer

    def answer(endpoint: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if endpoint == "runs/create" and first["identity"] in str(asked):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"}
        return real(endpoint, asked)

    fake.answer = answer  # type: ignore[method-assign]
    trouble = Drain(tmp_path / "run", fake.url).round(lambda *_: None)
    assert trouble is not None
    assert "not this one" in trouble
    assert_exact(fake, 4)
    assert left_in(tmp_path / "run", fake.url)[:2] == (7, 14)


def test_a_server_that_hangs_is_given_up_and_asked_again(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    record(tmp_path / "run" / "ddpg-s0", 4)
    fake.failures["runs/log-batch"] = ["work", "hang"]
    assert rounds(tmp_path / "run", fake.url) == 1
    assert_exact(fake, 4)


@pytest.mark.slow
def test_the_process_delivers_while_the_search_runs_but_not_while_quiet(
    tmp_path: Path, fake: FakeMlflow
) -> None:
    run_dir, said = tmp_path / "run", Said()
    run_dir.mkdir()
    with draining(run_dir, fake.url, said) as drain:
        record(run_dir / "ddpg-s0", 4, None)
        until(lambda: fake.points() == [(i, i / 10) for i in range(1, 5)])
        until(lambda: left_in(run_dir, fake.url)[0] == 0)
        with drain.quiet():
            until(lambda: says_quiet(drain))
            calls = len(fake.calls)
            record(run_dir / "ddpg-s0", 6)
            until(lambda: says_quiet(drain))
            assert len(fake.calls) == calls
    assert said.messages == []
    assert_exact(fake, 6)
    assert ended(drain)


def says_quiet(drain: drain_process.DrainProcess) -> bool:
    assert drain._process is not None
    assert drain._process.stdout is not None
    return QUIET in (drain._process.stdout.read() or b"")


def ended(drain: drain_process.DrainProcess) -> bool:
    process = drain._process
    return process is not None and process.poll() is not None


@pytest.mark.parametrize("mode", ["hang", pytest.param("error", marks=pytest.mark.slow)])
def test_the_end_of_a_run_waits_for_no_broken_server(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(drain_process, "WITHOUT_PROGRESS_S", 0.5)
    run_dir, said = tmp_path / "run", Said()
    record(run_dir / "ddpg-s0", 4)
    fake.mode = mode
    with draining(run_dir, fake.url, said) as drain:
        until(lambda: fake.calls)
    assert ended(drain)
    (message,) = said.messages
    assert message.startswith("note: 7 of 7 entries wait for MLflow")
    assert message.endswith(f"deliver them with: amc sync {run_dir}")
    fake.mode = "work"
    assert rounds(run_dir, fake.url) == 0
    assert_exact(fake, 4)


def test_an_interruption_waits_shortly_and_leaves_no_process(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    real = drain_process.DrainProcess.end

    def end(self: Any, reporter: Any, at_most_s: float = 60.0) -> None:
        limits.append(at_most_s)
        real(self, reporter, 0.2)

    monkeypatch.setattr(drain_process.DrainProcess, "end", end)
    fake.mode = "hang"
    record(tmp_path / "run" / "ddpg-s0", 4)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), draining(tmp_path / "run", fake.url, Said()) as drain:
            raise error
        assert ended(drain)
    assert limits == [3.0, 10.0]


def test_the_process_ends_with_a_parent_that_was_killed(tmp_path: Path, fake: FakeMlflow) -> None:
    run_dir = tmp_path / "run"
    record(run_dir / "ddpg-s0", 4)
    code = (
        "import sys, time; from pathlib import Path; from amc.drain_process import draining\n"
        "from amc.reporting import SilentReporter\n"
        "with draining(Path(sys.argv[1]), sys.argv[2], SilentReporter()) as drain:\n"
        "    print(drain._process.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir), fake.url], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until(lambda: left_in(run_dir, fake.url)[0] == 0)
    record(run_dir / "ddpg-s0", 6)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))
    assert fake.points() == [(i, i / 10) for i in range(1, 7)]


def is_zombie(number: int) -> bool:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def sync(*arguments: Any) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(application, ["sync", *map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout or "{}"), result.stderr


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the measurement at the end of a run, which takes seconds and changes no plan."""
    monkeypatch.setattr(finish, "_measure", lambda *_: {})


AWAY: dict[str, Any] = {"agents": {"random_search": {}, "uniform": {}}, "tracking_uri": None}


@pytest.mark.usefixtures("unmeasured", "digits_run")
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
    entries, _ = entries_of(content)
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
        entries, _ = entries_of(content)
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
