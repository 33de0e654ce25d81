"""``amc sync``: whatever of a run has not reached MLflow, delivered by hand.

What an outbox lacks, because a disk was full, the search was killed or tracking was off, is first
taken from what the folder has on record: journal, summary and plan.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc.cost import BUDGET_KEYS, Budget
from amc.delivery import Delivered, counts
from amc.drain import Drain, only_one
from amc.earlier_outbox import Continued, complete, set_apart
from amc.errors import InputError
from amc.evaluation import best_of
from amc.finish import track
from amc.journal import read_journal
from amc.outbox import OutboxTracker, is_being_written
from amc.outbox_folders import earlier_folder, outboxes_of, start_of
from amc.outbox_lines import FILE, read_entries
from amc.printable import shown
from amc.reporting import Handle, QuietHandle, Reporter
from amc.run_folder import RunFolder, Search
from amc.store_uri import OFF, check_confided, chosen, default_store, parts
from amc.strict_json import read_json
from amc.tracked import params_of, points

FACT_LENGTH = 1000
ATTEMPTS = 2  # the second one asks first what has arrived of the first


def sync_run(run: RunFolder, tracking_uri: str | None, reporter: Reporter) -> dict[str, Any]:
    """Deliver what waits of ``run``; return run folder, store, a row a search, and what is left.

    A row has ``search``, and of its entries how many were ``delivered`` now, the ``total``, and
    those ``left``. ``error`` says why some are left; ``busy`` that another process delivers them.
    """
    for search in run.searches:
        _check(search)
    uri = _store(run, tracking_uri)
    store = parts(uri).public
    error, before = None, [_counts(search, store)[0] for search in run.searches]
    with only_one(run.path) as mine:
        if mine:
            for search in run.searches:
                _complete(run, search, store, reporter)
            error = _deliver(run, uri, reporter)
    rows: list[dict[str, Any]] = []
    for search, known in zip(run.searches, before, strict=True):
        delivered, total = _counts(search, store)
        now, left = max(0, delivered - known), total - delivered
        rows.append({"search": search.name, "delivered": now, "total": total, "left": left})
    left = sum(row["left"] for row in rows)
    facts = {"run_dir": str(run.path), "store": store, "rows": rows, "left": left}
    return {**facts, "busy": not mine, "error": error if left else None}


def _counts(search: Search, store: str) -> tuple[int, int]:
    """Return how many entries of a search's outboxes were delivered, of how many."""
    found = [counts(folder, store) for folder in outboxes_of(search.folder)]
    return sum(delivered for delivered, _, _ in found), sum(total for _, total, _ in found)


def _store(run: RunFolder, tracking_uri: str | None) -> str:
    """Return where the run is to be, with what the environment knows of its secrets.

    Nothing is sent to a store on the word of a file alone: the run may be a stranger's.
    """
    recorded = [start["store"] for s in run.searches if (start := _start(s)) and start["store"]]
    if tracking_uri is None:
        check_confided(run.config.tracking_uri, f"amc sync {run.path}")
    uri = chosen(tracking_uri or run.config.tracking_uri)
    if uri is None and recorded:
        raise InputError(
            f"run {str(run.path)!r} was tracked at {shown(parts(recorded[0]).public)}, which "
            f"neither it nor MLFLOW_TRACKING_URI names now; name it: amc sync {run.path} "
            "--tracking-uri URI"
        )
    if uri == OFF:
        raise InputError(
            f"tracking of run {str(run.path)!r} is off; name where it is to be: "
            f"amc sync {run.path} --tracking-uri URI"
        )
    return uri or default_store(run.path)


def _start(search: Search) -> Mapping[str, Any] | None:
    """Return the first entry of a search's latest outbox, if it has one."""
    for folder in reversed(outboxes_of(search.folder)):
        if start := start_of(folder):
            return start.values
    return None


def _check(search: Search) -> None:
    """Raise ``InputError`` where an outbox, or the record of its deliveries, is damaged."""
    for folder in outboxes_of(search.folder):
        for _ in read_entries(folder):
            pass
        Delivered.read(folder)


def _complete(run: RunFolder, search: Search, store: str, reporter: Reporter) -> None:
    """Add to the outbox of a search that no longer runs what journal and summary have beyond it."""
    header, records = read_journal(search.journal)
    start, row = _start(search), _row(run, search, len(records))
    if is_being_written(search.folder) or not (records or start):
        return
    limit = _limit(run, search, start, row)
    if limit is None:
        reporter.message(
            f"note: the budget of {search.name} is not on record, so its evaluations come with: "
            f"amc resume {run.path}"
        )
        return
    kept = None if store == default_store(run.path) else store
    ((key, fraction),) = run.config.budget.items()
    budget, continues = Budget(key, fraction, limit), header.get("continues", ())
    set_apart(search.folder, Continued(continues, budget), reporter.message)
    for journal in continues:
        if start_of(earlier := search.folder / earlier_folder(journal)):
            complete(earlier, search.folder / journal, budget, reporter.message)
    name = f"{run.path.resolve().name}/{search.name}"
    params, task = _params(run, search, header, limit)
    experiment = run.config.experiment
    tracker = OutboxTracker(search.folder, experiment, name, kept, reporter.message, continues)
    tracker.start(params, {"agent": search.agent, "task": task})
    tracker.log_batch(1, points(budget, records, 1, best_of(records, budget)))
    if row is not None:
        track(tracker, row, search.folder)
        tracker.finish("finished")
    else:
        tracker.finish(tracker.ended or "interrupted")


def _params(
    run: RunFolder, search: Search, header: Mapping[str, Any], limit: float
) -> tuple[Mapping[str, Any], str]:
    """Return the parameters of a search and its task, as its folder has them on record."""
    table = read_json(search.target, "latency table")
    device = table.get("device") if isinstance(table, dict) else None
    facts: dict[str, Any] = {k: header.get(k) for k in ("table_digest", "network_digest", "task")}
    facts["device"] = device.get("cpu", "") if isinstance(device, dict) else None
    for key, value in facts.items():
        if not isinstance(value, str) or len(value) > FACT_LENGTH:
            file = search.target if key == "device" else search.journal
            raise InputError(
                f"{str(file)!r}: {key} is {shown(value)}, not text of at most {FACT_LENGTH} "
                "characters; restore the file from a copy"
            )
    task = facts.pop("task")
    return params_of(run.config, search, **facts, budget_limit=limit), task


def _row(run: RunFolder, search: Search, evaluations: int) -> Mapping[str, Any] | None:
    """Return the summary's row of a search; none where it has gone on since and has not ended."""
    if not os.path.lexists(run.path / "summary.json"):
        return None
    for row in run.read_summary():
        if (row["agent"], row["seed"]) == (search.agent, search.seed):
            return row if row["evaluations"] == evaluations else None
    return None


def _limit(
    run: RunFolder,
    search: Search,
    start: Mapping[str, Any] | None,
    row: Mapping[str, Any] | None,
) -> float | None:
    """Return what the budget allows, as recorded at the start, else from the dense network."""
    if start is not None and "budget_limit" in start["params"]:
        limit = start["params"]["budget_limit"]
        where = f"{str(search.folder / FILE)!r}: params.budget_limit"
    else:
        ((key, fraction),) = run.config.budget.items()
        name = "predicted_latency_s" if BUDGET_KEYS[key] == "latency_s" else key
        dense = ((row or {}).get("dense") or {}).get(name)
        if dense is None:
            return None
        limit = fraction * dense
        where = f"{str(run.path / 'summary.json')!r}: dense.{name}"
    if type(limit) not in (int, float) or not 0 < limit < math.inf:
        raise InputError(
            f"{where} gives the budget {shown(limit)}, which is no number above 0; restore the "
            f"file from a copy, or go on with: amc resume {run.path}"
        )
    return float(limit)


def _deliver(run: RunFolder, uri: str, reporter: Reporter) -> str | None:
    """Deliver what waits of every search, with a bar each; return what went wrong."""
    drain, error = Drain(run.path, uri), None
    bars: dict[Path, Handle] = {}
    with contextlib.ExitStack() as stack:
        for search in run.searches:
            delivered, total = _counts(search, parts(uri).public)
            if total > delivered:
                bar = reporter.task(f"delivering {search.name}", total - delivered)
                bars |= dict.fromkeys(outboxes_of(search.folder), stack.enter_context(bar))
        for _ in range(ATTEMPTS):
            error = drain.round(lambda folder, n: bars.get(folder, QuietHandle()).advance(n))
            if error is None:
                break
    return error
