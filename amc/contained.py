"""Keeping to one folder: what lies in it may not lead out of it.

A folder from somebody else can hold symbolic links. Read, they would copy files of this machine
into what is exported from it; written to, they would change files elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from amc.errors import InputError
from amc.printable import printable


def check_contained(folder: Path) -> None:
    """Raise ``InputError`` where anything below ``folder`` is a link that leads out of it.

    ``folder`` itself may be a link: whoever named it chose it.
    """
    for place, folders, files in os.walk(folder):  # which follows no link
        for name in (*folders, *files):
            entry = Path(place, name)
            if entry.is_symlink():
                inside(folder, entry)


def inside(folder: Path, entry: Path) -> Path:
    """Return ``entry``, which need not exist; ``InputError`` where it leads out of ``folder``."""
    try:
        leads_out = not entry.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        leads_out = True
    if leads_out:
        raise InputError(
            f"{printable(repr(str(entry)))} leads out of {printable(repr(str(folder)))}, so that "
            "using it would read or write files elsewhere; put the file itself there"
        )
    return entry
