"""One owner for a run folder: a lock that its process takes to the grave."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amc.errors import InputError

LOCK = ".lock"
PATIENCE_S, LOOK_S = 0.5, 0.05
NEVER_WAITS = os.O_NOFOLLOW | os.O_NONBLOCK  # as a pipe of that name would


@contextmanager
def owned(folder: Path, again: str | None = None, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Own a run folder; ``InputError`` names the process that does. Who only reads needs no lock.

    ``again`` is the command that goes on with it, ``amc resume`` unless given. The system lets
    go of the lock when the process ends, however it does.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | NEVER_WAITS, 0o644)
    try:
        if not _locked(descriptor, patience_s):
            raise InputError(
                f"run folder {str(folder)!r} is in use by {_owner(descriptor)}; wait for it, or "
                f"end it and go on with: {again or f'amc resume {folder}'}"
            )
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_owned(folder: Path) -> bool:
    """Return whether a process is at work in a run folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | NEVER_WAITS)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(descriptor: int, patience_s: float) -> bool:
    """Take the lock; who only looks whether there is an owner holds it for a moment."""
    for _ in range(max(1, round(patience_s / LOOK_S))):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_S)
        else:
            return True
    return False


def _owner(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
