"""The journal: one JSON object a line, on disk before an agent sees the result.

The first line is a header with the facts that every record depends on. Whatever may differ between
equal runs stands under the one key ``observed``, the line's checksum too. A last line that was cut
short, as by a power cut, was seen by no agent and is dropped; any other damage is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc import faults
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.files import write_text
from amc.journal_lines import LIMITS, SCHEMA_VERSION, as_line, record_as_json
from amc.journal_reader import JournalReader
from amc.plan import digest
from amc.printable import shown

# Facts that decide how numbers are rounded, not what is asked for: where one of them differs, a
# search can go on, but not in the same steps.
ELSEWHERE = ("machine", "code", "torch")
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
        self.earlier = [e for name in self.continues for e in scan(path.with_name(name)).records]
        self._length, self._bytes = len(self.records), contents.whole_bytes
        self.seconds = time.perf_counter() - begin

    @property
    def continues(self) -> list[str]:
        """The names of the journals that this one continues, the oldest first."""
        return list(self.header.get("continues", ()))

    @property
    def remedy(self) -> str:
        """What helps where the search does not come out as on record."""
        if any(fact not in self.header for fact in NEW_FACTS):
            return _go_on_elsewhere(self.path)
        return "start a new run in another folder"

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
        """Add records and wait until they are on disk. What fails leaves the file as it was.

        Raises ``InputError`` for a record that would be too long to be read again.
        """
        begin = time.perf_counter()
        faults.point("journal.before_append")
        lines = [
            as_line({"sequence": self._length + i, **record_as_json(evaluation)}).encode()
            for i, evaluation in enumerate(evaluations)
        ]
        if (longest := max(map(len, lines), default=0)) > LIMITS.size:
            raise InputError(
                f"a record for {str(self.path)!r} has {longest} bytes, more than the {LIMITS.size} "
                "of a journal's line; search fewer sites: sites.exclude"
            )
        text = b"".join(lines)
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
    with JournalReader(path) as reader:
        records = list(reader.read())
        return Contents(reader.header, records, reader.offset, reader.unread_bytes)


def checked(path: Path, facts: Mapping[str, Any], elsewhere: bool = False) -> Contents:
    """Return what a journal holds; ``InputError`` where it is damaged or of other ``facts``.

    With ``elsewhere`` machine, versions and code may be others.
    """
    contents = scan(path)
    different = differences(contents.header, facts)
    if different and not (elsewhere and set(different) <= set(ELSEWHERE)):
        raise InputError(refusal(path, different))
    return contents


def differences(
    header: Mapping[str, Any], facts: Mapping[str, Any], unknown: bool = False
) -> dict[str, str]:
    """Return what is not as the header says, by fact: one sentence each.

    With ``unknown`` facts count as others that older headers do not have.
    """
    new = [fact for fact in NEW_FACTS if header["schema_version"] == 1 and fact not in header]
    if unknown and new:
        return {fact: f"{fact} is not on record" for fact in new} | differences(header, facts)
    found = {}
    for fact in dict.fromkeys([*facts, *header]):
        then, now = header.get(fact), facts.get(fact)
        if fact in OWN_KEYS or fact in new or then == now:
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
        remedy = f"the same steps come out only where these are the same; {_go_on_elsewhere(path)}"
    return f"{path}: {', and '.join(different.values())}; {remedy}"


def _go_on_elsewhere(path: Path) -> str:
    return (
        "go on in new steps, with every answer on record, by: amc resume "
        f"{path.parent.parent} --continue-elsewhere"
    )


def context_facts(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every evaluation in the journal depends on, by name."""
    return {key: value for key, value in header.items() if key not in NOT_OF_THE_CONTEXT}


def context_of(header: Mapping[str, Any]) -> str:
    """Return the digest of what every request's key in the journal depends on."""
    return str(header.get("context", digest(context_facts(header))))


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
