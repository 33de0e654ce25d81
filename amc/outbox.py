"""The outbox of a search: what is to be tracked, in the order it happened.

``outbox.jsonl`` lies beside the journal. A search only appends to it; ``amc.drain`` delivers it.
The first line has an identity, drawn once, so a folder that is moved stays the same MLflow run.
A search that is replayed reports everything again: what stands here already is not added twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from amc.outbox_folders import earlier_folder, run_dir_of, start_of
from amc.outbox_lines import (
    FILE,
    SCHEMA_VERSION,
    Entry,
    OutboxError,
    open_regular,
    read_entries,
)
from amc.printable import printable
from amc.tracking import Status

FINAL = "final/"
CONTINUES_TAG = "amc.continues"
LOCK_PATIENCE_S = 1.0
ROWS = 1000  # on one line


class OutboxTracker:
    """The tracker that a search sees; it writes to ``folder``'s outbox and to nothing else.

    Its first failure is its last word, told to ``warn`` as one line: a gap is worse than an end,
    since ``amc sync`` takes from journal and summary what an outbox lacks at its end.

    ``continues`` are the names of the journals that the search's own continues: what is tracked now
    is none of theirs, and the MLflow run says so by its name and its tag ``amc.continues``.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        run_name: str,
        store: str | None,
        warn: Callable[[str], None],
        continues: Sequence[str] = (),
    ) -> None:
        self._folder, self._warn = folder, warn
        name = printable(run_name, 1000)
        self._named = {"experiment": experiment, "run_name": name, "store": store}
        self._continues = list(continues)
        self._file: BinaryIO | None = None
        self._end = 0
        self._last_step = 0
        self._final: dict[str, float] = {}
        self._artifacts: dict[str, str] = {}
        self._ended: Status | None = None

    @property
    def ended(self) -> Status | None:
        """How the search ended, as long as nothing came after that."""
        return self._ended

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the outbox, heal its end, and take note of what it has."""
        self._attempt(lambda: self._start(params, tags))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one point of each of ``metrics``; those called ``final/...`` have no step."""
        final = {k: v for k, v in _finite(metrics).items() if k.startswith(FINAL)}
        # An end that comes again measures again, and has all else as before.
        if new := {k: v for k, v in final.items() if self._final.get(k) != v}:
            self._append("final", metrics=new)
            self._final.update(new)
        if rest := {k: v for k, v in metrics.items() if not k.startswith(FINAL)}:
            self.log_batch(step, [rest])

    def log_batch(self, first_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Record ``rows[i]`` at step ``first_step + i``, but for steps that were recorded before.

        Numbers that are not finite are left out.
        """
        known = max(0, self._last_step + 1 - first_step)
        for begin in range(known, len(rows), ROWS):
            new = [_finite(row) for row in rows[begin : begin + ROWS]]
            self._append("points", first_step=first_step + begin, rows=new)
            self._last_step = first_step + begin + len(new) - 1

    def artifact(self, path: Path) -> None:
        """Name a file within the folder, to be copied when it is delivered."""
        self._attempt(lambda: self._artifact(path))

    def finish(self, status: Status) -> None:
        """Close the outbox; whatever comes after it is dropped, a second end too."""
        if self._ended != status:
            self._append("finish", status=status)
        self._close()

    def _start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        number = open_regular(self._folder / FILE, os.O_RDWR | os.O_CREAT)
        self._file = os.fdopen(number, "r+b", buffering=0)
        _lock(self._file)
        with contextlib.suppress(OutboxError):  # what is behind it is written again
            for entry in read_entries(self._folder):
                if entry.event == "start" and len(entry.continues) < len(self._continues):
                    raise ValueError("the outbox is of the journal that is continued")
                self._note(entry)
                self._end = entry.end
        if self._end < os.fstat(number).st_size:
            os.ftruncate(number, self._end)
        if not self._end:
            self._append(
                "start",
                schema_version=SCHEMA_VERSION,
                identity=uuid.uuid4().hex,
                **self._beginning(),
                params=params,
                tags={**tags, **self._continued()},
            )

    def _beginning(self) -> dict[str, Any]:
        """Return how a search is called that begins, or that goes on elsewhere."""
        if not self._continues:
            return {"formerly": self._former_identity(), **self._named}
        name = f"{self._named['run_name']} continued {len(self._continues)}"
        own = {"run_name": name, "continues": self._continues}
        return {"formerly": None, **self._named, **own}

    def _continued(self) -> dict[str, str]:
        """Return the tag with the identity of the MLflow run before this one, if there is one."""
        for journal in reversed(self._continues):
            if start := start_of(self._folder / earlier_folder(journal)):
                return {CONTINUES_TAG: str(start.values.get("identity"))}
        return {}

    def _former_identity(self) -> str | None:
        """Return how a search that began before there were outboxes is tagged in MLflow."""
        journal = self._folder / "journal.jsonl"
        if not journal.is_file() or journal.read_bytes().count(b"\n") < 2:
            return None
        return f"{self._folder.resolve().parent}/{self._named['run_name']}"

    def _note(self, entry: Entry) -> None:
        values = entry.values
        self._ended = values["status"] if entry.event == "finish" else None
        if entry.event == "points":
            self._last_step = values["first_step"] + len(values["rows"]) - 1
        elif entry.event == "final":
            self._final.update(values["metrics"])
        elif entry.event == "artifact":
            self._artifacts[values["path"]] = values["sha256"]

    def _artifact(self, path: Path) -> None:
        name = path.relative_to(self._folder).as_posix()
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if self._artifacts.get(name) != sha256:
            self._append("artifact", path=name, sha256=sha256)
            self._artifacts[name] = sha256

    def _append(self, event: str, **values: Any) -> None:
        self._attempt(lambda: self._write(event, values))

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        if self._ended is not None:
            self._ended = None
            if event != "finish":
                self._write("resume", {})
        if self._file is None:
            return
        value = {"event": event, "time_ms": int(time.time() * 1000), **values}
        line = json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"
        number = self._file.fileno()
        if os.fstat(number).st_size != self._end:  # a line that an interruption came into
            os.ftruncate(number, self._end)
        written = os.pwrite(number, line, self._end)
        if written < len(line):
            raise OSError("no space for a whole line")
        self._end += written

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a disk may do, a search outlives it
            self._close()
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            self._warn(
                f"warning: tracking stopped ({type(error).__name__}: {reason}); the search goes "
                "on, its journal and plan are complete without it; once it has ended, what is "
                f"missing comes with: amc sync {run_dir_of(self._folder)}"
            )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_being_written(folder: Path) -> bool:
    """Return whether a living process tracks the search in ``folder``."""
    try:
        with os.fdopen(open_regular(folder / FILE), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _lock(file: BinaryIO) -> None:
    """Own the file until it is closed; whoever completes it for ``amc sync`` is soon done."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    numbers = {key: float(value) for key, value in metrics.items()}
    return {key: value for key, value in numbers.items() if math.isfinite(value)}
