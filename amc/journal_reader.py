"""Reading a journal line by line, also one that grows meanwhile: nothing is read twice.

A line has a limit, the file has none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.journal_lines import LIMITS, SCHEMA_VERSION, read_line, record_of
from amc.printable import printable, shown

CONTINUED = re.compile(r"journal-[1-9][0-9]{0,5}\.jsonl")
CHUNK = 2**20  # bytes


class JournalReader:
    """An open journal, of which ``count`` records in ``offset`` bytes have been read.

    ``header`` is known from the first ``read`` on. Raises ``InputError`` where there is no file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(
                f"{printable(str(path))} is missing; name a run folder that amc search wrote"
            )
        self._path, self._file = path, path.open("rb")
        self.header: dict[str, Any] = {}
        self.count = self.offset = 0

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def unread_bytes(self) -> int:
        """How many bytes there are beyond what was read; below 0 where the file has shrunk."""
        return os.fstat(self._file.fileno()).st_size - self.offset

    def is_replaced(self) -> bool:
        """Return whether another file has taken the journal's place."""
        return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())

    def read(self) -> Iterator[Evaluation]:
        """Yield each whole record that has not been read; ``InputError`` names a damaged byte."""
        self._file.seek(self.offset)
        for line in whole_lines(self._file):
            try:
                record = self._read(line)
            except ValueError as error:
                what = f"record {self.count}" if self.header else "header"
                raise InputError(
                    f"{printable(str(self._path))} is corrupt at byte {self.offset} ({what}: "
                    f"{error}); restore it from a copy, or use the release that wrote it"
                ) from error
            self.offset += len(line)
            if record is not None:
                self.count += 1
                yield record
        if not self.header:
            raise InputError(f"{printable(str(self._path))} has no header; restore it from a copy")

    def _read(self, line: bytes) -> Evaluation | None:
        value = read_line(line)
        header = self.header or _checked_header(value)
        if header["schema_version"] > 1 and "checksum" not in value.get("observed", {}):
            raise ValueError("it has no checksum")
        if self.header:
            return record_of(value, self.count)
        self.header = header
        return None


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield each line from where ``file`` stands on, without a last one that was cut short.

    A file system that loses power may leave zeros where the last lines were to come. Of a line that
    is too long its beginning is yielded.
    """
    while line := file.readline(LIMITS.size + 1):
        zero = line.find(b"\0")
        if zero >= 0 and _only_zeros(line[zero:], file):
            return
        if not line.endswith(b"\n") and len(line) <= LIMITS.size:
            return
        yield line


def _only_zeros(rest: bytes, file: BinaryIO) -> bool:
    """Return whether zeros and line ends alone come until the end; ``file`` stays where it is."""
    place = file.tell()
    while rest and not rest.strip(b"\0\n"):
        rest = file.read(CHUNK)
    file.seek(place)
    return not rest


def _checked_header(header: dict[str, Any]) -> dict[str, Any]:
    version, names = header.get("schema_version"), header.get("continues", [])
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"schema_version is {shown(version)}, not 1 to {SCHEMA_VERSION}")
    if not isinstance(names, list) or not all(
        isinstance(name, str) and CONTINUED.fullmatch(name) for name in names
    ):
        raise ValueError(f"continues {shown(names)} names what is no journal beside it")
    return header
