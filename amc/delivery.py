"""Delivery of one search's outbox to MLflow, from where the last delivery ended.

``outbox.delivered.json`` beside the outbox says how far it came, to which store, and what went
wrong last. It may be lost or be behind: MLflow is asked what it has, so nothing arrives twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amc.errors import InputError
from amc.files import write_json
from amc.invalid import explain
from amc.outbox_folders import start_of
from amc.outbox_lines import (
    FILE,
    LONGEST_LINE,
    Count,
    Entry,
    OutboxError,
    open_regular,
    read_entries,
    read_start,
)
from amc.printable import printable, shown
from amc.strict_json import Limits, read_json

STATE = "outbox.delivered.json"
SCHEMA_VERSION = 1
METRICS_PER_CALL = 1000  # MLflow's limit
AT_ONCE = 2**18  # bytes read before a call: some calls' worth
REMEDY = "remove it: MLflow is asked what has arrived"
LIMITS = Limits(size=100_000, values=100, depth=2, text=10_000, remedy=REMEDY)


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
        """Return what the file of ``folder`` says; nothing delivered where there is none.

        ``OutboxError`` for one that amc did not write.
        """
        path = folder / STATE
        if not os.path.lexists(path):
            return Delivered()
        name = f"delivery record {printable(repr(str(path)))}"
        if path.is_symlink() or not path.is_file():
            raise OutboxError(f"{name} is a link, a pipe or else no file; {REMEDY}")
        try:
            value = read_json(path, "delivery record", LIMITS)
            if not isinstance(value, dict):
                raise InputError(f"{name} holds {shown(value)}, which is no object; {REMEDY}")
            known = _Delivered.model_validate(value)
        except ValidationError as error:
            raise OutboxError(f"{name}: {explain(error)}; {REMEDY}") from None
        except InputError as error:
            raise OutboxError(str(error)) from None
        return Delivered(**known.model_dump(exclude={"schema_version"}))

    def write(self, folder: Path) -> None:
        """Replace the file of ``folder``."""
        write_json(folder / STATE, {"schema_version": SCHEMA_VERSION, **asdict(self)})


class _Delivered(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    store: Annotated[str, Field(max_length=10_000)]
    entries: Count
    offset: Count
    tail: Annotated[str, Field(pattern="^([0-9a-f]{16})?$")]
    error: Annotated[str, Field(max_length=10_000)] | None


class Delivery:
    """One outbox on its way to ``store`` (as shown, without secrets)."""

    def __init__(self, folder: Path, store: str, open_record: OpenRecord) -> None:
        self.folder = folder
        self._open_record = open_record
        self._record: Record | None = None
        self._start = start_of(folder)
        last = Delivered.read(folder)
        self._state = last if last.store == store and _fits(folder, last) else Delivered(store)

    @property
    def delivered(self) -> int:
        """How many entries have arrived."""
        return self._state.entries

    def waiting(self) -> list[Entry]:
        """Return the next entries that have not arrived; ``OutboxError`` where a line is none.

        What comes before such a line is delivered first. An outbox that another one took the place
        of is begun anew.
        """
        if (first := read_start(self.folder)) != self._start:
            self._start, self._record = first, None
            self._state = Delivered(self._state.store)
        entries: list[Entry] = []
        try:
            for entry in read_entries(self.folder, self._state.offset):
                entries.append(entry)
                if entry.end - self._state.offset >= AT_ONCE:
                    break
        except OutboxError:
            if not entries:
                raise
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
                assert self._start is not None  # entries wait
                self._record = self._open_record(self._start)
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

    def _send(self, record: Record, sent: Sequence[Entry]) -> None:
        event, values = sent[0].event, sent[0].values
        if event == "points":
            record.points(sent)
        elif event == "final":
            record.final(sent[0])
        elif event == "artifact":
            path = self.folder / values["path"]
            if path.is_symlink():
                raise OutboxError(
                    f"{printable(repr(str(path)))}, which the outbox names, is a link; put the "
                    "file itself there"
                )
            if path.is_file():  # what was removed since is not missed
                record.artifact(path)
        elif event in {"finish", "resume"}:
            record.status(sent[0])


def counts(folder: Path, store: str) -> tuple[int, int, str | None]:
    """Return how many entries of ``folder`` were delivered, of how many, and the last error.

    Lines are counted, not read; an outbox or a record of deliveries that is no such file counts as
    one entry that waits.
    """
    try:
        state = Delivered.read(folder)
        fits = state.store == store and _fits(folder, state)
        delivered, begin = (state.entries, state.offset) if fits else (0, 0)
        return delivered, delivered + _lines(folder, begin), state.error
    except FileNotFoundError:
        return 0, 0, None
    except (OSError, OutboxError) as error:
        return 0, 1, str(error)


def _lines(folder: Path, begin: int) -> int:
    """Return how many lines an outbox has from offset ``begin`` on, but for one being written."""
    lines = rest = 0
    with os.fdopen(open_regular(folder / FILE), "rb") as file:
        file.seek(begin)
        while block := file.read(2**20):
            lines += block.count(b"\n")
            rest = (rest if b"\n" not in block else 0) + len(block) - block.rfind(b"\n") - 1
    return lines + (rest > LONGEST_LINE)


def _fits(folder: Path, state: Delivered) -> bool:
    """Return whether the line that was delivered last still stands where it stood."""
    if state.offset == 0:
        return state.entries == 0
    try:
        number = open_regular(folder / FILE)
    except FileNotFoundError:
        return False
    first = max(0, state.offset - LONGEST_LINE - 1)
    with os.fdopen(number, "rb") as file:
        file.seek(first)
        content = file.read(state.offset - first)
    line = content[content.rfind(b"\n", 0, max(0, len(content) - 1)) + 1 :]
    is_whole = len(content) == state.offset - first and line.endswith(b"\n")
    return is_whole and hashlib.sha256(line).hexdigest()[:16] == state.tail


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
