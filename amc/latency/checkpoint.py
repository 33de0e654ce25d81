"""What a sitting has timed so far, on disk: a measuring that was killed goes on from there.

Measuring is deterministic but for its timings: which turns it takes follows from the timings
before. So it starts again, is handed the turns on record, and times only those that are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.latency.clock import Timing
from amc.latency.ops import OpTemplate


@dataclass(frozen=True)
class Turn:
    """The timings of one turn, a list a point and a list a network, in units of ``reference_s``.

    ``calm`` says that the core was not slowed down all the time.
    """

    reference_s: float
    calm: bool
    points: list[list[Timing]]
    networks: dict[str, list[Timing]]


class Checkpoint:
    """The turns of one sitting in a file of JSON lines; without a path nothing is kept.

    ``facts`` is what the sitting depends on: a file of another one is written anew. ``refusals``
    counts how often the sitting ended with a table that was too noisy.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._header = {"facts": _digest(facts)}
        self._past: list[dict[str, Any]] = []
        self._used = 0
        self._begun = False
        self.refusals = 0
        lines = _read(path)
        if lines and lines[0] == self._header:
            self.refusals = sum("refused" in line for line in lines)
            self._past = [line for line in lines[1:] if "refused" not in line]

    @property
    def turns_on_record(self) -> int:
        """How many turns were found."""
        return len(self._past)

    def replayed(self, points: Sequence[tuple[OpTemplate, tuple[int, ...]]]) -> Turn | None:
        """Return the turn on record that comes next, ``None`` where it is still to be timed."""
        if self._used == len(self._past):
            return None
        line = self._past[self._used]
        if line["points"] != _digest(_named(points)):
            self._past = self._past[: self._used]
            return None
        self._used += 1
        return Turn(
            line["reference_s"],
            line["calm"],
            [_timings(its) for its in line["timings"]],
            {name: _timings(its) for name, its in line["networks"].items()},
        )

    def record(self, points: Sequence[tuple[OpTemplate, tuple[int, ...]]], turn: Turn) -> None:
        """Append a turn that was timed just now."""
        if self._path is None:
            return
        line = {
            "points": _digest(_named(points)),
            "reference_s": turn.reference_s,
            "calm": turn.calm,
            "timings": [_listed(its) for its in turn.points],
            "networks": {name: _listed(its) for name, its in turn.networks.items()},
        }
        self._begin()
        self._past.append(line)
        self._used += 1
        self._append(line)

    def refuse(self) -> None:
        """Take note that what was timed is too noisy: the next sitting times it more often."""
        if self._path is not None:
            self.refusals += 1
            self._append({"refused": self.refusals})

    def discard(self) -> None:
        """Remove the file: its content has become a table."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Write the file anew with what is good of it, once: before the first new turn."""
        assert self._path is not None
        if self._begun:
            return
        self._begun = True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        refused: list[dict[str, Any]] = [{"refused": n + 1} for n in range(self.refusals)]
        lines = [self._header, *self._past, *refused]
        partial = self._path.with_name(f"{self._path.name}.new")
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        partial.replace(self._path)

    def _append(self, line: dict[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")


def checkpoint_path(table: Path) -> Path:
    """Return where the checkpoint of the table ``table`` lies: beside it."""
    return table.with_name(f"{table.name}.partial")


def _read(path: Path | None) -> list[dict[str, Any]]:
    """Return the whole lines of a file; the last one may have been cut off."""
    lines: list[dict[str, Any]] = []
    if path is None or not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def _named(points: Sequence[tuple[OpTemplate, tuple[int, ...]]]) -> list[Any]:
    return [[template.key, *dims] for template, dims in points]


def _listed(timings: Sequence[Timing]) -> list[Any]:
    return [[t.wall_s, t.cpu_s, int(t.calm)] for t in timings]


def _timings(listed: Sequence[Any]) -> list[Timing]:
    return [Timing(wall, cpu, bool(calm)) for wall, cpu, calm in listed]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
