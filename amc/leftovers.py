"""What processes that were killed left half written, in a run folder and beside it.

Only what has exactly the name of a temporary file or folder of ours is touched, and no link.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from amc.delivery import STATE
from amc.drain import only_one
from amc.ownership import LOCK, is_owned

RANDOM = "[a-z0-9_]{8}"  # as ``tempfile`` draws it
# As ``amc.files.write_bytes`` names what it writes, for the kinds of files that a run folder has.
HALF_WRITTEN = re.compile(rf"\.(.+\.(?:json|jsonl|yaml|safetensors|png))\.{RANDOM}")
# Where a driver writes. What other commands make within a run folder they may be making now.
FOLDERS = re.compile(r"(?:[A-Za-z][A-Za-z0-9_]*-s[0-9]+(?:/weights|/family|/earlier-[0-9]+)?)?")


def remove_leftovers(run_dir: Path) -> None:
    """Remove the half written files of a run folder, which the caller owns."""
    found = list(_half_written(run_dir))
    deliveries = [path for path in found if path.name.startswith(f".{STATE}.")]
    for path in found:
        if path not in deliveries:
            _remove(path)
    if deliveries:
        with only_one(run_dir) as mine:  # else one is being written
            for path in deliveries if mine else ():
                _remove(path)


def remove_abandoned(path: Path) -> None:
    """Remove what is left of creations of a run folder ``path`` whose process is gone.

    A folder that is being built is owned before anything is put into it.
    """
    name = re.compile(rf"\.{re.escape(path.name)}-{RANDOM}")
    for entry in _entries(path.parent):
        if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            around = Path(entry.path)
            if {one.name for one in _entries(around)} == {LOCK, path.name} and not is_owned(around):
                shutil.rmtree(around, ignore_errors=True)


def _half_written(run_dir: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(run_dir):  # which follows no link
        below = Path(place).relative_to(run_dir)
        folders[:] = [one for one in folders if FOLDERS.fullmatch((below / one).as_posix())]
        for name in files:
            path = Path(place, name)
            if HALF_WRITTEN.fullmatch(name) and not path.is_symlink():
                yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # no reason to hold a search up
        path.unlink()
