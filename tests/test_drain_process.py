"""The process beside a run: it delivers while the run goes on, delays nothing, and ends with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amc import drain_process
from amc.drain import QUIET, left_in
from amc.drain_process import draining
from tests.deliveries import Said, assert_exact, record, rounds, until
from tests.fake_mlflow import FakeMlflow

pytestmark = pytest.mark.usefixtures("own_mlflow")

ROOT = Path(__file__).resolve().parent.parent


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
