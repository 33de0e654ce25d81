"""What a private Ray leaves on disk and among processes ends with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from amc.ray_home import LOCK, PREFIX, RayHome, sweep, writers
from tests.processes import soon

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists files")
OWNER = """
import subprocess, sys, time
from amc.ray_home import RayHome
home = RayHome()
with (home.path / "out").open("w") as out:
    child = subprocess.Popen(["sleep", "600"], stdout=out, start_new_session=True)
print(home.path, child.pid, home._reaper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def owner() -> tuple[subprocess.Popen[str], Path, int, int]:
    """Start an owner; return its process, its folder, a child of it, and its reaper."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert process.stdout is not None
    folder, child, reaper = process.stdout.readline().split()
    process.stdout.close()
    return process, Path(folder), int(child), int(reaper)


def test_a_home_that_is_closed_takes_all_with_it(temporary: Path) -> None:
    home = RayHome()
    with (home.path / "out").open("w") as out:
        child = subprocess.Popen(["sleep", "600"], stdout=out)
        assert writers(home.path) >= {child.pid, os.getpid()}
        home.close()
    assert child.wait(30) == -signal.SIGKILL
    assert not list(temporary.iterdir())


def test_a_killed_owner_takes_all_with_it(temporary: Path) -> None:
    process, folder, child, _ = owner()
    process.kill()
    process.wait()
    assert soon(lambda: not folder.exists())
    assert child not in writers(temporary)


def test_what_even_the_reaper_left_goes_with_the_next_start(temporary: Path) -> None:
    mine = RayHome()
    process, folder, child, reaper = owner()
    (temporary / f"{PREFIX}strange").mkdir()  # whose lock is not there: perhaps not yet
    sweep(temporary)
    assert writers(folder) >= {child}  # its owner lives
    os.kill(reaper, signal.SIGKILL)
    process.kill()
    process.wait()
    assert (folder / LOCK).exists()
    sweep(temporary)
    assert child not in writers(temporary)
    assert {path.name for path in temporary.iterdir()} == {f"{PREFIX}strange", mine.path.name}
    mine.close()
