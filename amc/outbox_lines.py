"""The lines of an outbox as they are read: whoever delivers a run may not have written it.

Everything is checked before any of it is used: that a line is strict JSON of limited size, that
its values are of their types, and that no name in it is a path out of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from amc.errors import InputError
from amc.invalid import explain
from amc.printable import printable, shown
from amc.strict_json import MB, Limits, parse_json

FILE = "outbox.jsonl"
SCHEMA_VERSION = 1
LONGEST_LINE = 16 * MB
LIMITS = Limits(size=LONGEST_LINE, values=500_000, depth=16)
LARGEST = 2**31  # bytes of an outbox

Count = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(min_length=1, max_length=4_096)]
Tag = Annotated[str, Field(pattern=r"^(amc\.)?[a-z][a-z_]{0,99}$")]
Metric = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,99}(/[a-z0-9_]{1,100})?$")]
Numbers = Annotated[dict[Metric, float], Field(max_length=100)]
Identity = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
JournalName = Annotated[str, Field(pattern=r"^journal-[1-9][0-9]{0,5}\.jsonl$")]
Artifact = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")]


class OutboxError(InputError):
    """An outbox that cannot be delivered as it is; the message says what to do."""


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
        return tuple(self.values.get("continues", ()))


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    time_ms: Count


class _Start(_Line):
    schema_version: Literal[1]
    identity: Identity
    formerly: Text | None
    experiment: Annotated[str, Field(min_length=1, max_length=200)]
    run_name: Text
    store: Text | None
    continues: list[JournalName] = Field(default=[], max_length=1_000)
    params: dict[Text, Any] = Field(max_length=1_000)
    tags: dict[Tag, Text] = Field(max_length=100)

    @field_validator("experiment")
    @classmethod
    def _no_path(cls, value: str) -> str:
        if value in {".", ".."} or {"/", "\\"} & set(value) or not value.isprintable():
            raise ValueError(
                f"experiment {shown(value)} must be a printable name without slashes; change it"
            )
        return value  # MLflow makes a folder of it


class _Points(_Line):
    first_step: Count
    rows: list[Numbers] = Field(min_length=1)


class _Final(_Line):
    metrics: Numbers


class _Artifact(_Line):
    path: Artifact
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Finish(_Line):
    status: Literal["finished", "failed", "interrupted"]


EVENTS: dict[str, type[_Line]] = {
    "start": _Start,
    "points": _Points,
    "final": _Final,
    "artifact": _Artifact,
    "finish": _Finish,
    "resume": _Line,
}


def entry_of(line: bytes, begin: int) -> Entry:
    """Return the entry of a whole line that begins at offset ``begin``; ``InputError`` else."""
    try:
        value = parse_json(line, "the line", LIMITS, begin)
    except InputError as error:
        raise InputError(str(error).removesuffix(f"; {LIMITS.remedy}")) from None
    if not isinstance(value, dict):
        raise InputError(f"the line {shown(value)} is no object")
    event = value.get("event")
    schema = EVENTS.get(event) if isinstance(event, str) else None
    if schema is None:
        raise InputError(f"event {shown(event)} is none of {', '.join(EVENTS)}")
    try:
        schema.model_validate(value)
    except ValidationError as error:
        raise InputError(f"of event {shown(event)}, {explain(error)}") from None
    digest = hashlib.sha256(line).hexdigest()[:16]
    return Entry(str(event), value["time_ms"], value, begin + len(line), digest)


def read_entries(folder: Path, start: int = 0) -> Iterator[Entry]:
    """Yield the entries of ``folder``'s outbox from offset ``start`` on; none where it has none.

    The first of all must be ``start``, and only that. A last line that was cut short is left out;
    ``OutboxError`` names the byte of any other that is no entry, the field, and what to do.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(start)
        while line := file.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise _damaged(path, start, f"the line is longer than {LONGEST_LINE} bytes")
            if not line.endswith(b"\n"):
                return
            try:
                entry = entry_of(line, start)
            except InputError as error:
                raise _damaged(path, start, str(error)) from None
            if (entry.event == "start") != (start == 0):
                expected = "the first one" if entry.event == "start" else "start, the first one"
                raise _damaged(path, start, f"event {entry.event!r} must be {expected}")
            yield entry
            start = entry.end


def read_start(folder: Path) -> Entry | None:
    """Return the entry ``start`` of a folder's outbox, if it has one."""
    return next(read_entries(folder), None)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return the descriptor of a file that is one: no link, and no pipe, which would wait for ever.

    ``OutboxError`` for anything else, and for one that is too large.
    """
    try:
        number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV}:
            raise _no_file(path) from None
        raise
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        os.close(number)
        raise _no_file(path)
    return number


def _no_file(path: Path) -> OutboxError:
    return OutboxError(
        f"outbox {printable(repr(str(path)))} is a link, a pipe or else no file of at most "
        f"{LARGEST} bytes; remove it, and what it had is taken from journal and summary"
    )


def _damaged(path: Path, byte: int, why: str) -> OutboxError:
    name = printable(repr(str(path)))
    return OutboxError(
        f"outbox {name} is corrupt at byte {byte}: {why}; once its search has ended, cut it off "
        f"there, and what follows is taken from journal and summary: truncate -s {byte} {name}"
    )
