"""What is kept of an arena's searches: whether it fits their journals, and what made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amc.arena import Bout
from amc.arena_record import Kept, read_bout
from amc.errors import InputError
from amc.journal import OWN_KEYS
from amc.journal_lines import read_line
from amc.printable import printable, shown
from amc.strict_json import read_json

LONGEST = 40  # characters of a value in which searches differ


def kept_of(bout: Bout) -> Kept | None:
    """Return what is kept of a search that is done, with what made it; ``None`` of any other.

    One is not done whose file cannot be read, or is not of its journal as it is now, or was to
    have other evaluations. Raises ``InputError`` where the file is of another search.
    """
    if not bout.scores.is_file():
        return None
    try:
        kept = read_bout(bout.scores)
    except InputError:
        return None
    run = kept.run
    if (run.task, run.agent, run.seed) != (bout.task, bout.label, bout.seed):
        raise InputError(
            f"{str(bout.scores)!r} is of {shown(run.task)}, {shown(run.agent)} seed {run.seed};"
            " put it back where it was, or remove it and run again"
        )
    try:
        made, recorded = on_record(bout)
    except (OSError, ValueError):
        return None
    fits = kept.made in (None, made) and kept.recorded in (None, recorded)
    if not fits or kept.task.evaluations != bout.config.evaluations:
        return None
    return kept.model_copy(update={"made": made})


def on_record(bout: Bout) -> tuple[dict[str, Any], int]:
    """Return the facts of a search's journal, machine, versions and code among them, and how many
    records it has. Raises ``ValueError`` for a damaged header, ``OSError`` where there is none.
    """
    with (bout.folder / f"{bout.agent}-s{bout.seed}" / "journal.jsonl").open("rb") as file:
        header = read_line(file.readline())
        recorded = sum(line.endswith(b"\n") for line in file)
    return {key: value for key, value in header.items() if key not in OWN_KEYS}, recorded


def provenance(kept: Sequence[Kept], tables: Sequence[Path]) -> dict[str, Any]:
    """Return machine and versions, and the processors of the latency tables.

    They are those of the first search; ``mixed`` says in what not all are alike.
    """
    devices = [read_json(path, "latency table")["device"] for path in tables if path.is_file()]
    first = kept[0].made or {}
    return {
        "machine": first.get("machine", {}),
        "torch": first.get("torch"),
        "amc": version("amc"),
        "targets": list(dict.fromkeys(str(device.get("cpu")) for device in devices)),
        "mixed": mixed(kept),
    }


def mixed(kept: Sequence[Kept]) -> list[str]:
    """Return in what searches differ that should not, and how many have what, a line for each."""
    counts: dict[str, Counter[str]] = {}
    for one in kept:
        made = one.made or {}
        machine, code = made.get("machine") or {}, made.get("code") or {}
        task = one.run.task
        alike = {
            "torch": made.get("torch"),
            **{f"machine.{key}": value for key, value in machine.items()},
            "code of evaluations": code.get("evaluations"),
            f"code of {one.run.method}": code.get("agent"),
            f"network of {task}": made.get("network_digest"),
            f"data of {task}": made.get("data_digest"),
            f"latency table of {task}": made.get("table_digest"),
        }
        for name, value in alike.items():
            counts.setdefault(name, Counter())[printable(str(value), LONGEST)] += 1
    return [
        f"{name} ({', '.join(f'{value} in {count}' for value, count in values.items())})"
        for name, values in counts.items()
        if len(values) > 1
    ]
