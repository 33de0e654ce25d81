"""What stands in an outbox, one JSON object a line, and where a search has outboxes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "outbox.jsonl"
EARLIER = re.compile(r"earlier-[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class Entry:
    """One line: ``event`` is start, points, final, artifact, finish or resume.

    ``end`` is the offset behind the line, and ``digest`` tells it from another one of its length.
    """

    event: str
    time_ms: int
    values: Mapping[str, Any]
    end: int
    digest: str

    @property
    def continues(self) -> tuple[str, ...]:
        """Of a start: the journals that the search's own continued then, the latest last."""
        names = self.values.get("continues")
        return tuple(map(str, names)) if isinstance(names, list) else ()


def entries_of(content: bytes, start: int = 0) -> tuple[list[Entry], int]:
    """Return the entries of ``content``, which begins at offset ``start``, and where they end.

    They end before a line that was cut short or that is no entry.
    """
    entries, end = [], start
    for line in content.splitlines(keepends=True):
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("event"), str):
            break
        time_ms = value.get("time_ms")
        end += len(line)
        digest = hashlib.sha256(line).hexdigest()[:16]
        known_ms = time_ms if isinstance(time_ms, int) else 0
        entries.append(Entry(value["event"], known_ms, value, end, digest))
    return entries, end


def start_of(folder: Path) -> Entry | None:
    """Return the first entry of a search's outbox, ``None`` where it has none."""
    try:
        with (folder / FILE).open("rb") as file:
            entries, _ = entries_of(file.readline())
    except OSError:
        return None
    return entries[0] if entries and entries[0].event == "start" else None


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
    return [path for path in (*earlier, folder) if (path / FILE).is_file()]
