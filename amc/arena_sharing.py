"""What one search of an arena has found out already, for the others that ask the same.

Equal requests have equal answers, to the last bit, where context, machine and code are equal. An
answer that is taken from another search counts as an evaluation all the same, and keeps the times
that it took there, so that no search is the cheaper for coming later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from amc.arena import SCORES, Bout
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.journal import differences, scan
from amc.journal_lines import read_line, record_of
from amc.journal_reader import whole_lines

KEY = re.compile(rb'\{"sequence":\d+,"key":"([0-9a-f]{64})"')
# Of what may be given away: it is whole, nothing failed, and it left no weights.
WHOLE = (b'"feasible":true', b'"cached":false', b'"weights_sha256":null', b'"measure":false')
STOPPED = b'"stopped_after":'
JOURNALS = 4096  # whose keys a process remembers


class Answers(Mapping[str, Evaluation]):
    """Evaluations by key, in the journals of searches that are done. Each is read when asked for.

    ``facts`` are those of the journal that they are for. Searches that race share nothing: what
    they ask depends on the best so far.
    """

    def __init__(self, bout: Bout, facts: Mapping[str, Any]) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        if bout.config.racing is not None or not bout.config.cache:
            return
        for scores in sorted(bout.folder.parent.glob(f"*/{SCORES}")):
            for path in sorted(scores.parent.glob("*/journal.jsonl")):
                header, places = _scanned(path)
                if not places:
                    continue
                if scores.parent != bout.folder and not differences(header, _as_of(header, facts)):
                    self._places.update({key: (path, *place) for key, place in places.items()})

    def __getitem__(self, key: str) -> Evaluation:
        path, offset, length = self._places[key]
        with path.open("rb") as file:
            file.seek(offset)
            value = read_line(file.read(length))
        return record_of(value, value["sequence"])

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _as_of(header: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``facts`` as if they were of the header's agent, whose code decides no answer."""
    theirs = header.get("code")
    agent = theirs.get("agent") if isinstance(theirs, dict) else None
    return {**facts, "code": {**facts["code"], "agent": agent}}


@lru_cache(maxsize=JOURNALS)
def _scanned(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Return the header of a journal, and where in it the answers lie that may be given away.

    None may of a journal that is damaged, nor of one that goes on elsewhere: it has answers of
    another machine or other code.
    """
    places, offset = {}, 0
    try:
        if scan(path).header.get("continues"):
            return {}, {}
    except (InputError, OSError):
        return {}, {}
    with path.open("rb") as file:
        header: dict[str, Any] = {}
        for line in whole_lines(file):
            found = KEY.match(line)
            if not header:
                header = read_line(line)
            elif found and all(sign in line for sign in WHOLE) and STOPPED not in line:
                places[found[1].decode()] = (offset, len(line))
            offset += len(line)
    return header, places
