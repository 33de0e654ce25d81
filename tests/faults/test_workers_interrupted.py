"""However a search is ended, and wherever: soon, with a word on how to go on, and nothing left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from amc.ray_home import PREFIX, writers
from tests.conftest import SMALL
from tests.failing import VARIABLE
from tests.processes import alive, soon

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists files"),
]
ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 30.0
CONFIG: dict[str, Any] = {
    **SMALL,
    "task": "tests.failing:factory",
    "agents": ["random_search"],
    "evaluations": 4,
    "workers": 2,
}


@dataclass
class Driver:
    """A search in a process of its own, and the folder for its temporary files."""

    process: subprocess.Popen[str]
    temporary: Path
    fault: Path
    run: Path

    @property
    def home(self) -> Path | None:
        """The folder of its Ray, once that is there."""
        return next(self.temporary.glob(f"{PREFIX}*"), None)

    @property
    def recorded(self) -> int:
        """How many lines its journal has."""
        journal = self.run / "random_search-s0" / "journal.jsonl"
        return len(journal.read_text().splitlines()) if journal.is_file() else 0

    def builds(self) -> bool:
        """Return whether a worker is being built."""
        names = (Path(f"/proc/{p}/cmdline") for p in (writers(self.home) if self.home else ()))
        with contextlib.suppress(OSError):  # one that has ended since
            return any(b"ray::Actor" in name.read_bytes() for name in names)
        return False

    def reached(self) -> bool:
        """Return whether a worker is in the midst of its fault."""
        return Path(f"{self.fault}.reached").exists()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short name: that of a Unix socket has little room."""
    folder = Path(tempfile.mkdtemp(prefix="t"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(
    temporary: Path,
    tmp_path: Path,
    fault: str,
    environment: dict[str, str] | None = None,
    **changes: Any,
) -> Driver:
    (tmp_path / "fault").write_text(fault)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, **changes}))
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "amc", "search", str(config), "--run-dir", str(run)],
        cwd=ROOT,
        env={
            **os.environ,
            **(environment or {}),
            "TMPDIR": str(temporary),
            VARIABLE: str(tmp_path / "fault"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Driver(process, temporary, tmp_path / "fault", run)


PHASES: dict[str, tuple[str, dict[str, Any], Callable[[Driver], Any]]] = {
    "start": ("none", {}, lambda d: d.home is not None and len(writers(d.home)) > 2),
    "build": ("none", {}, lambda d: d.builds()),
    "evaluation": ("sleep 600 always", {}, lambda d: d.reached()),
    "retry": ("kill 1", {"attempts": 100}, lambda d: d.reached()),
    "finalise": ("none", {"finetune_steps": 10**7}, lambda d: d.recorded == 5),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", PHASES)
def test_an_interrupted_search_leaves_nothing_and_says_how_to_go_on(
    phase: str, number: signal.Signals, temporary: Path, tmp_path: Path
) -> None:
    fault, changes, reached = PHASES[phase]
    driver = start(temporary, tmp_path, fault, **changes)
    try:
        assert soon(lambda: reached(driver) or driver.process.poll() is not None)
        processes = writers(temporary)
        driver.process.send_signal(number)
        _, err = driver.process.communicate(timeout=WITHIN_S)
    finally:
        driver.process.kill()
    assert driver.process.returncode == 130, err
    assert "".join(err.splitlines()).endswith(f"interrupted; go on with: amc resume {driver.run}")
    assert driver.process.pid in processes
    assert not [process for process in processes | writers(temporary) if alive(process)]
    assert driver.home is None


def test_a_second_signal_ends_what_hangs_and_leaves_nothing(
    temporary: Path, tmp_path: Path
) -> None:
    driver = start(temporary, tmp_path, "sleep 600 always")
    try:
        assert soon(lambda: driver.reached() or driver.process.poll() is not None)
        processes = writers(temporary)
        for process in processes - {driver.process.pid}:
            os.kill(process, signal.SIGSTOP)  # so that no Ray answers any more

        def ended() -> bool:
            driver.process.send_signal(signal.SIGTERM)
            return driver.process.poll() is not None

        assert soon(ended, WITHIN_S)
        _, err = driver.process.communicate()
    finally:
        driver.process.kill()
    assert driver.process.returncode == 130
    assert "interrupted" in err
    assert soon(lambda: not any(map(alive, processes)), WITHIN_S)
    assert soon(lambda: driver.home is None, WITHIN_S)


def test_a_machine_without_memory_ends_the_search_with_the_cause(
    temporary: Path, tmp_path: Path
) -> None:
    # Ray's memory monitor ends every worker while it is built.
    starved = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"}
    driver = start(temporary, tmp_path, "none", starved)
    try:
        _, err = driver.process.communicate(timeout=300)
    finally:
        driver.process.kill()
    assert driver.process.returncode == 1, err
    told = " ".join(err.split())
    assert "no memory for one of the workers; going on with 1" in told
    assert "error: no worker can be built: out of memory; free memory, or set workers" in told
    assert "Traceback" not in err
    assert not writers(temporary)
    assert driver.home is None


def test_a_killed_driver_leaves_nothing(temporary: Path, tmp_path: Path) -> None:
    driver = start(temporary, tmp_path, "sleep 600 always")
    try:
        assert soon(lambda: driver.reached() or driver.process.poll() is not None)
        processes = writers(temporary)
    finally:
        driver.process.kill()
    driver.process.communicate()
    assert len(processes) > 5  # the driver, the GCS, the raylet, its agents, workers
    assert soon(lambda: not any(map(alive, processes)), WITHIN_S)
    assert soon(lambda: driver.home is None, WITHIN_S)
