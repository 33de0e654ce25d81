"""Delivery of one search's outbox to MLflow, from where the last delivery ended.

``outbox.delivered.json`` beside the outbox says how far it came, to which store, and what went
wrong last. It may be lost or be behind: MLflow is asked what it has, so nothing arrives twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from amc.files import write_json
from amc.outbox_entries import FILE, Entry, entries_of, run_dir_of

STATE = "outbox.delivered.json"
SCHEMA_VERSION = 1
METRICS_PER_CALL = 1000  # MLflow's limit
CHUNK = 2**18  # bytes read at once: some calls' worth


class Record(Protocol):
    """One MLflow run, open."""

    def points(self, entries: Sequence[Entry]) -> None:
        """Record the metrics of ``points`` entries."""
        ...

    def final(self, entry: Entry) -> None:
        """Record metrics that have no step."""
        ...

    def artifact(self, path: Path) -> None:
        """Copy a file."""
        ...

    def status(self, entry: Entry) -> None:
        """Say that the search goes on, or how it ended."""
        ...


OpenRecord = Callable[[Entry], Record]  # given the entry ``start``


class OutboxError(ValueError):
    """An outbox that cannot be delivered as it is; the message says what to do."""


@dataclass(frozen=True)
class Delivered:
    """How far an outbox was delivered to ``store``; ``tail`` is the digest of the last line."""

    store: str = ""
    entries: int = 0
    offset: int = 0
    tail: str = ""
    error: str | None = None

    @staticmethod
    def read(folder: Path) -> Delivered:
        """Return what the file of ``folder`` says; nothing delivered where there is none."""
        try:
            value = json.loads((folder / STATE).read_text())
            if value.pop("schema_version") != SCHEMA_VERSION:
                return Delivered()
            return Delivered(**value)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return Delivered()

    def write(self, folder: Path) -> None:
        """Replace the file of ``folder``."""
        write_json(folder / STATE, {"schema_version": SCHEMA_VERSION, **asdict(self)})


class Delivery:
    """One outbox on its way to ``store`` (as shown, without secrets)."""

    def __init__(self, folder: Path, store: str, open_record: OpenRecord) -> None:
        self.folder = folder
        self._open_record = open_record
        self._record: Record | None = None
        self._beginning = self._first_line()
        last = Delivered.read(folder)
        self._state = last if last.store == store and _fits(folder, last) else Delivered(store)

    @property
    def delivered(self) -> int:
        """How many entries have arrived."""
        return self._state.entries

    def waiting(self) -> list[Entry]:
        """Return the next entries that have not arrived; ``OutboxError`` where a line is none.

        An outbox that another one took the place of is begun anew.
        """
        with (self.folder / FILE).open("rb") as file:
            if (first := file.readline()) != self._beginning:
                self._beginning, self._record = first, None
                self._state = Delivered(self._state.store)
            file.seek(self._state.offset)
            content = file.read(CHUNK)
            if b"\n" not in content:
                content += file.read()
        entries, end = entries_of(content, self._state.offset)
        if b"\n" in content[end - self._state.offset :] and not entries:
            raise OutboxError(
                f"{self.folder / FILE} is corrupt at byte {end}; once its search has ended, "
                f"amc sync {run_dir_of(self.folder)} cuts that off and writes it again"
            )
        return entries

    def step(self) -> int:
        """Deliver the next entries in one call; return how many, 0 where none wait.

        Raises what the store raises. Then it is asked what it has before anything else is sent.
        """
        entries = self.waiting()
        if not entries:
            return 0
        try:
            if self._record is None:
                self._record = self._open_record(self._first())
            sent = _first_call(entries)
            self._send(self._record, sent)
        except Exception:
            self._record = None
            raise
        self._state = replace(
            self._state,
            entries=self._state.entries + len(sent),
            offset=sent[-1].end,
            tail=sent[-1].digest,
            error=None,
        )
        self._state.write(self.folder)
        return len(sent)

    def failed(self, reason: str) -> None:
        """Keep ``reason`` for whoever asks why entries wait."""
        if reason != self._state.error:
            self._state = replace(self._state, error=reason)
            with contextlib.suppress(OSError):
                self._state.write(self.folder)

    def _first_line(self) -> bytes:
        with contextlib.suppress(OSError), (self.folder / FILE).open("rb") as file:
            return file.readline()
        return b""

    def _first(self) -> Entry:
        entries, _ = entries_of(self._beginning)
        if not entries or entries[0].event != "start":
            raise OutboxError(f"{self.folder / FILE} has no start; amc sync writes it again")
        return entries[0]

    def _send(self, record: Record, sent: Sequence[Entry]) -> None:
        event, values = sent[0].event, sent[0].values
        if event == "points":
            record.points(sent)
        elif event == "final":
            record.final(sent[0])
        elif event == "artifact":
            path = within(self.folder, values)
            if path.is_file():  # what was removed since is not missed
                record.artifact(path)
        elif event in {"finish", "resume"}:
            record.status(sent[0])
        elif event != "start":
            raise OutboxError(
                f"{self.folder / FILE} has the event {event!r}, which this version does not know; "
                "use the version of amc that made the search"
            )


def counts(folder: Path, store: str) -> tuple[int, int, str | None]:
    """Return how many entries of ``folder`` were delivered, of how many, and the last error."""
    state = Delivered.read(folder)
    try:
        entries, _ = entries_of((folder / FILE).read_bytes())
    except OSError:
        return 0, 0, None
    if state.store != store or not _fits(folder, state):
        return 0, len(entries), state.error
    return min(state.entries, len(entries)), len(entries), state.error


def _fits(folder: Path, state: Delivered) -> bool:
    """Return whether the line that was delivered last still stands where it stood."""
    if state.offset == 0:
        return True
    try:
        with (folder / FILE).open("rb") as file:
            content = file.read(state.offset)
    except OSError:
        return False
    before = content.rfind(b"\n", 0, max(0, len(content) - 1)) + 1
    entries, _ = entries_of(content[before:], before)
    return [(e.end, e.digest) for e in entries] == [(state.offset, state.tail)]


def _first_call(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries that go in one call: points together, up to MLflow's limit, else one."""
    metrics = 0
    for index, entry in enumerate(entries):
        if entry.event != "points":
            return entries[: max(1, index)]
        metrics += sum(len(row) for row in entry.values["rows"])
        if metrics >= METRICS_PER_CALL:
            return entries[: max(1, index)] if metrics > METRICS_PER_CALL else entries[: index + 1]
    return entries


def within(folder: Path, values: Mapping[str, Any]) -> Path:
    """Return the file that an entry names; ``OutboxError`` where that is outside of ``folder``."""
    path = (folder / str(values["path"])).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise OutboxError(f"{folder / FILE} names a file outside of its folder; take that line out")
    return path
