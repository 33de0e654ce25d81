"""Where a search has outboxes: one, and one of each journal that its own continues."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from amc.outbox_lines import FILE, Entry, OutboxError, read_start

EARLIER = re.compile(r"earlier-[1-9][0-9]{0,5}")


def start_of(folder: Path) -> Entry | None:
    """Return the first entry of a search's outbox, ``None`` where it has none that can be read."""
    with contextlib.suppress(OSError, OutboxError):
        return read_start(folder)
    return None


def earlier_folder(journal: str) -> str:
    """Return the name of the folder with the outbox of a journal that is continued."""
    return f"earlier-{journal.removeprefix('journal-').removesuffix('.jsonl')}"


def run_dir_of(folder: Path) -> Path:
    """Return the run folder of a folder with an outbox."""
    return folder.parent.parent if EARLIER.fullmatch(folder.name) else folder.parent


def outboxes(run_dir: Path) -> list[Path]:
    """Return every folder of a run that has an outbox."""
    folders = sorted(path for path in run_dir.iterdir() if path.is_dir())
    return [folder for one in folders for folder in outboxes_of(one)]


def outboxes_of(folder: Path) -> list[Path]:
    """Return every folder with an outbox of the search in ``folder``, the earliest first."""
    earlier = [path for path in folder.glob("earlier-*") if EARLIER.fullmatch(path.name)]
    earlier.sort(key=lambda path: int(path.name.removeprefix("earlier-")))
    return [path for path in (*earlier, folder) if os.path.lexists(path / FILE)]
