"""Writing files that are either whole or not there."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_writable(path: Path, option: str, *, folder: bool = False) -> None:
    """Raise ``InputError`` unless a file, or with ``folder`` a new folder, can be put at ``path``.

    Called before anything slow starts, so that no work is lost to a mistyped path. The folders
    above ``path`` need not exist; none is made.
    """
    if path.is_dir() and not folder:
        raise InputError(f"{option} {str(path)!r} is a folder; name a file")
    nearest = path.absolute().parent
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".amc-"):
            return
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        reason = error.strerror or str(error)
        raise InputError(
            f"{option} {str(path)!r} cannot be written, because of {str(nearest)!r}: {reason}; "
            "choose another"
        ) from error


def write_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write ``path`` through a temporary file beside it: fsync, rename, fsync the folder.

    Without ``sync`` the file outlives this process, but not surely a power cut. An ``OSError``
    names ``path``.
    """
    write_together({path: content}, sync=sync)


def write_together(contents: Mapping[Path, bytes], *, sync: bool = True) -> None:
    """Write files that belong together as ``write_bytes`` does, the last one being what names them.

    None takes its place before all are written, so that a full disk leaves every earlier one.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary[path] = _temporary(path, content, sync)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
        for path, written in temporary.items():
            written.replace(path)
    except BaseException:
        for written in temporary.values():
            written.unlink(missing_ok=True)
        raise
    if sync:
        for folder in dict.fromkeys(path.parent for path in contents):
            fsync(folder)


def _temporary(path: Path, content: bytes, sync: bool) -> Path:
    """Return a new file beside ``path`` that holds ``content``."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        Path(name).chmod(0o644)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, all or nothing."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, all or nothing; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Make what was written without ``sync`` last."""
    fsync(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Make what is written in a file last, or what was made and renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
