"""Of a search that went on elsewhere MLflow has a run for each of its journals.

The outbox of a journal that another one continues goes to a folder of its own: ``earlier-1`` beside
``journal-1.jsonl``, with the files that it names. It is delivered from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amc.cost import Budget
from amc.delivery import STATE
from amc.evaluation import best_of
from amc.files import fsync, write_bytes
from amc.journal import read_journal
from amc.outbox import OutboxTracker
from amc.outbox_folders import earlier_folder, start_of
from amc.outbox_lines import FILE, Entry, read_entries
from amc.tracked import points


@dataclass(frozen=True)
class Continued:
    """What a search's journal continues: the names of ``journals``, and the budget of them all."""

    journals: Sequence[str]
    budget: Budget


def set_apart(folder: Path, continued: Continued, warn: Callable[[str], None]) -> None:
    """Put the outbox of ``folder`` aside where it is of a journal that is continued since.

    It is completed first. May be ended anywhere and done again.
    """
    start = start_of(folder)
    if start is None or len(start.continues) >= len(continued.journals):
        return
    journal = folder / continued.journals[len(start.continues)]
    entries = complete(folder, journal, continued.budget, warn)
    if not entries or entries[-1].event != "finish":
        return  # the disk was full, which has been told
    apart = folder / earlier_folder(journal.name)
    apart.mkdir(exist_ok=True)
    for entry in entries:
        if entry.event == "artifact":
            _keep(folder, apart, entry)
    for name in (STATE, FILE):  # without the outbox nothing has been done
        if (folder / name).is_file():
            (folder / name).replace(apart / name)
    fsync(apart)
    fsync(folder)


def complete(
    folder: Path, journal: Path, budget: Budget, warn: Callable[[str], None]
) -> list[Entry]:
    """Return the entries of the outbox in ``folder``, now with all of ``journal`` and an end.

    It must have a start.
    """
    start = start_of(folder)
    assert start is not None
    tracker = OutboxTracker(folder, "", "", None, warn, start.continues)
    tracker.start({}, {})  # its names stand there already
    ended, records = tracker.ended, read_journal(journal)[1]
    tracker.log_batch(1, points(budget, records, 1, best_of(records, budget)))
    tracker.finish(ended or "interrupted")
    return list(read_entries(folder))


def _keep(folder: Path, apart: Path, entry: Entry) -> None:
    """Copy a file that waits to be delivered, unless it is another one by now."""
    path = folder / entry.values["path"]
    if path.is_file() and not path.is_symlink():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == entry.values.get("sha256"):
            write_bytes(apart / path.name, content)
