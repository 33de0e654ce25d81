"""A file system of a few megabytes that is full just when a file is to be written."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amc import faults

SIZE_KB = 8192
BALLAST = "ballast"


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Yield ``folder``, made, as a file system of its own; skip where none may be mounted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, but_kb: int = 0) -> None:
    """Put a file there that leaves ``but_kb`` kilobytes."""
    status = os.statvfs(disk)
    free = status.f_bavail * status.f_frsize
    (disk / BALLAST).write_bytes(b"\1" * max(0, free - 1024 * but_kb))


def fill_at(disk: Path, place: str, patch: pytest.MonkeyPatch, but_kb: int = 0) -> None:
    """Fill ``disk`` as soon as this process begins to write the file whose path ``place`` ends.

    ``SHA256`` in it is any digest. A journal finds the disk full at each of its appends alone, as
    some fit into the last page.
    """
    make, point = tempfile.mkstemp, faults.point
    wanted = re.compile(re.escape(place).replace("SHA256", "[0-9a-f]{64}") + "$")

    def mkstemp(*, dir: Path, prefix: str) -> Any:
        if dir.is_relative_to(disk) and wanted.search(str(dir / prefix.strip("."))):
            fill(disk, but_kb)
        return make(dir=dir, prefix=prefix)

    def passed(name: str) -> None:
        if place == "journal.jsonl" and name == "journal.before_append":
            fill(disk)
        if place == "journal.jsonl" and name == "journal.after_sync":
            (disk / BALLAST).unlink()
        point(name)

    patch.setattr(tempfile, "mkstemp", mkstemp)
    patch.setattr(faults, "point", passed)


def whole(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder`` but the ballast and locks, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {BALLAST, ".lock", ".sync.lock"}
    }
