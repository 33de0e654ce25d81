"""A disk that is full: a clear stop, whole files, and a resume once there is room (R7)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from amc.journal import scan
from tests.faults.driver import command, kill_after
from tests.faults.runs import Reference, config_of

SIZE_KB = 4096
# Kilobytes that are left when a search goes on: they end in its journal, its weights, its plan, its
# pictures and its summary.
LEFT_KB = (0, 4, 8, 24, 64, 128, 256, 384)

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of ``SIZE_KB``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def leave(folder: Path, kilobytes: int) -> Path:
    """Fill a file system but for so much; return the file that does."""
    ballast = folder / "ballast"
    blocks = int(
        subprocess.run(
            ["df", "--output=avail", "-k", str(folder)], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
    )
    ballast.write_bytes(b"\1" * 1024 * max(0, blocks - kilobytes))
    return ballast


@pytest.mark.parametrize("agent", ["ddpg", "netadapt"])
def test_a_full_disk_is_a_clear_stop(agent: str, tmp_path: Path, small_disk: Path) -> None:
    reference, told = Reference(tmp_path, config_of(agent)), tmp_path / "told"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(reference.trial.config))
    run = small_disk / "run"
    ballast = leave(small_disk, 8)
    assert command(["search", str(config), "--run-dir", str(run)], told) == 1
    assert "error: no space left" in told.read_text()
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]
    ballast.unlink()
    assert kill_after(reference.again(run), None, "folder.created:1")
    stopped, progress = 0, set[int]()
    for kilobytes in LEFT_KB:
        ballast = leave(small_disk, kilobytes)
        code = command(["resume", str(run)], told)
        ballast.unlink()
        for journal in run.glob("*/journal.jsonl"):
            progress.add(len(scan(journal).records))
        if code == 0:
            break
        assert code == 1, told.read_text()
        assert "error: no space left" in told.read_text()
        assert f"; go on with: amc resume {run}" in told.read_text()
        assert "Traceback" not in told.read_text()
        stopped += 1
    assert stopped >= 3
    assert len(progress) > 1  # some were stopped in the middle
    assert command(["resume", str(run)], told) == 0
    assert reference.equals(run)
