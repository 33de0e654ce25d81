"""The journal: one JSON object a line, on disk before an agent sees the result.

The first line is a header with the facts that every record depends on. Whatever may differ between
equal runs stands under the one key ``observed``, the line's checksum too. A last line that was cut
short, as by a power cut, was seen by no agent and is dropped; any other damage is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc import faults
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.files import write_text
from amc.journal_lines import (
    SCHEMA_VERSION,
    as_line,
    read_line,
    record_as_json,
    record_of,
    whole_length,
)
from amc.plan import digest
from amc.printable import printable, shown
from amc.strict_json import read_bytes

# Facts that decide how numbers are rounded, not what is asked for: where one of them differs, a
# search can go on, but not in the same steps.
ELSEWHERE = ("machine", "code", "torch")
CONTINUED = re.compile(r"journal-[1-9][0-9]{0,5}\.jsonl")
LARGEST = 2**31  # bytes of a journal
# What a header has beside facts.
OWN_KEYS = ("schema_version", "observed", "context", "continues")
# Facts that journals of schema version 1 did not name.
NEW_FACTS = ("machine", "code")
NOT_OF_THE_CONTEXT = (*OWN_KEYS, *NEW_FACTS)


@dataclass(frozen=True)
class Contents:
    """What a journal's file holds: ``torn_bytes`` after ``whole_bytes`` were cut short."""

    header: dict[str, Any]
    records: list[Evaluation]
    whole_bytes: int
    torn_bytes: int


class Journal:
    """An append-only file of evaluations, opened by the one owner of its run folder.

    ``records`` are those that it held when opened; ``earlier`` those of the journals that it
    continues; ``seconds`` is the time spent here so far.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Open ``path`` for appending; ``InputError`` where its header has other ``facts``."""
        begin = time.perf_counter()
        self.path = path
        contents = checked(path, facts)
        if contents.torn_bytes:
            _cut(path, contents.whole_bytes)
        self.header, self.records = contents.header, contents.records
        self.torn_bytes = contents.torn_bytes
        names = contents.header.get("continues", ())
        self.earlier = [e for name in names for e in scan(path.with_name(name)).records]
        self._length, self._bytes = len(self.records), contents.whole_bytes
        self.seconds = time.perf_counter() - begin

    @property
    def context(self) -> str:
        """The digest of what every request's key depends on; that of a continued journal stays."""
        return context_of(self.header)

    @staticmethod
    def create(path: Path, facts: Mapping[str, Any], **own: Any) -> None:
        """Write a journal that holds its header alone, with ``own`` keys beside the ``facts``."""
        header = {"schema_version": SCHEMA_VERSION, **facts, **own, "observed": {}}
        write_text(path, as_line(header))

    def append(self, evaluations: Sequence[Evaluation]) -> None:
        """Add records and wait until they are on disk. What fails leaves the file as it was."""
        begin = time.perf_counter()
        faults.point("journal.before_append")
        text = "".join(
            as_line({"sequence": self._length + i, **record_as_json(evaluation)})
            for i, evaluation in enumerate(evaluations)
        ).encode()
        try:
            with self.path.open("ab") as file:
                file.write(text)
                file.flush()
                faults.point("journal.before_sync")
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left is a torn tail, which heals
                _cut(self.path, self._bytes)
            raise OSError(error.errno or errno.EIO, error.strerror, str(self.path)) from error
        self._length += len(evaluations)
        self._bytes += len(text)
        faults.point("journal.after_sync")
        self.seconds += time.perf_counter() - begin


def read_journal(path: Path) -> tuple[dict[str, Any], list[Evaluation]]:
    """Return header and records, without a last line that was cut short. Changes nothing."""
    contents = scan(path)
    return contents.header, contents.records


def scan(path: Path) -> Contents:
    """Return what a journal holds; ``InputError`` names the byte at which it is damaged."""
    if not path.is_file():
        raise InputError(f"{_named(path)} is missing; name a run folder that amc search wrote")
    content = read_bytes(path, "journal", LARGEST)
    whole = whole_length(content)
    offset, header, records = 0, None, list[Evaluation]()
    for text in content[:whole].splitlines(keepends=True):
        try:
            value = read_line(text)
            if header is None:
                header = _checked_header(value)
            if header["schema_version"] > 1 and "checksum" not in value.get("observed", {}):
                raise ValueError("it has no checksum")
            if value is not header:
                records.append(record_of(value, len(records)))
        except ValueError as error:
            what = "header" if header is None else f"record {len(records)}"
            raise InputError(
                f"{_named(path)} is corrupt at byte {offset} ({what}: {error}); restore it from a "
                "copy, or use the release that wrote it"
            ) from error
        offset += len(text)
    if header is None:
        raise InputError(f"{_named(path)} has no header; restore it from a copy")
    return Contents(header, records, whole, len(content) - whole)


def checked(path: Path, facts: Mapping[str, Any], elsewhere: bool = False) -> Contents:
    """Return what a journal holds; ``InputError`` where it is damaged or of other ``facts``.

    With ``elsewhere`` machine, versions and code may be others.
    """
    contents = scan(path)
    different = differences(contents.header, facts)
    if different and not (elsewhere and set(different) <= set(ELSEWHERE)):
        raise InputError(refusal(path, different))
    return contents


def differences(header: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what is not as the header says, by fact: one sentence each."""
    new = NEW_FACTS if header["schema_version"] == 1 else ()
    found = {}
    for fact in dict.fromkeys([*facts, *header]):
        then, now = header.get(fact), facts.get(fact)
        if fact in OWN_KEYS or (fact in new and fact not in header) or then == now:
            continue
        if isinstance(then, dict) and isinstance(now, dict):
            keys = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key)]
            told = [(f"{fact}.{key}", then.get(key), now.get(key)) for key in keys]
        else:
            told = [(fact, then, now)]
        found[fact] = ", ".join(
            f"{name} was {shown(old)} when the run began and is {shown(new)} now"
            for name, old, new in told
        )
    return found


def refusal(path: Path, different: Mapping[str, str]) -> str:
    """Return why a run is not gone on with, and what can be done instead."""
    remedy = "start a new run in another folder"
    if set(different) <= set(ELSEWHERE):
        remedy = (
            "the same steps come out only where these are the same; go on in new steps, with every "
            f"answer on record, by: amc resume {path.parent.parent} --continue-elsewhere"
        )
    return f"{path}: {', and '.join(different.values())}; {remedy}"


def context_facts(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every evaluation in the journal depends on, by name."""
    return {key: value for key, value in header.items() if key not in NOT_OF_THE_CONTEXT}


def context_of(header: Mapping[str, Any]) -> str:
    """Return the digest of what every request's key in the journal depends on."""
    return str(header.get("context", digest(context_facts(header))))


def _checked_header(header: dict[str, Any]) -> dict[str, Any]:
    version, names = header.get("schema_version"), header.get("continues", [])
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"schema_version is {shown(version)}, not 1 to {SCHEMA_VERSION}")
    if not isinstance(names, list) or not all(
        isinstance(name, str) and CONTINUED.fullmatch(name) for name in names
    ):
        raise ValueError(f"continues {shown(names)} names what is no journal beside it")
    return header


def _named(path: Path) -> str:
    return printable(str(path))


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
