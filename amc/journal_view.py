"""Looking at the journals of a run, beside the search that writes them: nothing is changed."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.journal import scan
from amc.journal_reader import JournalReader
from amc.ownership import is_owned
from amc.run_folder import RunFolder, Search

LOOK_S = 0.5  # how often a journal that is followed is looked at


def check(run_dir: Path) -> list[dict[str, Any]]:
    """Return a row a search: what its journal holds, and under ``problem`` what is wrong with it.

    ``torn_bytes`` were cut short at the end; the next resume drops them.
    """
    return [_checked(one) for one in RunFolder.open(run_dir).searches]


def _checked(search: Search) -> dict[str, Any]:
    row: dict[str, Any] = {"search": search.name, "journal": str(search.journal)}
    counts = ("schema_version", "records", "cached", "infeasible", "bytes", "torn_bytes")
    try:
        contents = scan(search.journal)
        for name in contents.header.get("continues", ()):
            scan(search.journal.with_name(name))
    except InputError as error:
        return {**row, **dict.fromkeys(counts), "problem": str(error)}
    return {
        **row,
        "schema_version": contents.header["schema_version"],
        "records": len(contents.records),
        "cached": sum(e.cached for e in contents.records),
        "infeasible": sum(not e.feasible for e in contents.records),
        "bytes": contents.whole_bytes + contents.torn_bytes,
        "torn_bytes": contents.torn_bytes,
        "problem": None,
    }


def show(
    run_dir: Path, agent: str | None = None, seed: int | None = None, last: int | None = None
) -> list[dict[str, Any]]:
    """Return the evaluations on record, or each search's ``last`` ones, of one agent or seed.

    Raises ``InputError`` for an agent or seed that the run does not have.
    """
    rows = []
    for one in _chosen(run_dir, agent, seed):
        records = list(enumerate(scan(one.journal).records))
        rows += [_row(one, *record) for record in records[-last if last else 0 :]]
    return rows


def follow(
    run_dir: Path, agent: str | None = None, seed: int | None = None, last: int = 0
) -> Iterator[dict[str, Any]]:
    """Return each search's ``last`` evaluations, and those that are put on record from now on.

    They end when the search does. A journal that another one takes the place of, as where a search
    goes on elsewhere, is shown from its beginning.
    """
    tails = [(one, Tail(one.journal)) for one in _chosen(run_dir, agent, seed)]
    before = [(one, tail.added()[-last if last else tail.count :]) for one, tail in tails]
    return itertools.chain(
        (_row(one, *record) for one, records in before for record in records),
        _added(run_dir, tails),
    )


class Tail:
    """The end of a journal that is being written."""

    def __init__(self, path: Path) -> None:
        self._path, self._reader = path, JournalReader(path)

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    @property
    def count(self) -> int:
        """How many records there were when they were last asked for."""
        return self._reader.count

    def added(self) -> list[tuple[int, Evaluation]]:
        """Return the numbered records that came since the last call, from what was added alone.

        A file that was replaced is read anew, and one that was cut or written over too, of which
        the records behind those that had been returned count as added.
        """
        first, replaced = self.count, self._reader.is_replaced()
        if not replaced and self._reader.unread_bytes >= 0:
            with contextlib.suppress(InputError):  # the whole file says what is wrong, if anything
                return list(enumerate(self._reader.read(), first))
        self._reader.close()
        self._reader = JournalReader(self._path)
        records = list(enumerate(self._reader.read()))
        return records if replaced else records[first:]


def _added(run_dir: Path, tails: list[tuple[Search, Tail]]) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        for _, tail in tails:
            stack.callback(tail.close)
        running = True
        while running:
            running = is_owned(run_dir)  # asked before looking: what it wrote last is shown
            for one, tail in tails:
                for record in tail.added():
                    yield _row(one, *record)
            if running:
                time.sleep(LOOK_S)


def _chosen(run_dir: Path, agent: str | None, seed: int | None) -> list[Search]:
    searches = RunFolder.open(run_dir).searches
    for key, value in (("agent", agent), ("seed", seed)):
        known = sorted({str(getattr(one, key)) for one in searches})
        if value is not None and str(value) not in known:
            raise InputError(
                f"{key} {value!r} is not in run {str(run_dir)!r}; it has {', '.join(known)}"
            )
    return [one for one in searches if agent in (None, one.agent) and seed in (None, one.seed)]


def _row(search: Search, sequence: int, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "search": search.name,
        "sequence": sequence,
        "key": evaluation.key,
        "parent": evaluation.request.parent,
        "score": evaluation.score,
        "reward": evaluation.reward,
        **evaluation.cost.as_report(),
        "feasible": evaluation.feasible,
        "reason": evaluation.reason,
        "cached": evaluation.cached,
        "stopped_after": evaluation.stopped_after,
        "keep_ratios": evaluation.request.plan.keep_ratios,
        "observed": evaluation.observed,
    }
