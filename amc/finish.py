"""The end of a run: its winners on images that no search has seen, and on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amc.compress import compress, kept_of
from amc.data import Data
from amc.latency.table import network_key
from amc.pricing import is_here
from amc.reporting import Reporter
from amc.results import Dense, Result, draw_progress, write_result
from amc.session import Found, Session
from amc.timing import Measured, measure_networks
from amc.tracking import Tracker
from amc.worker import Final, score
from amc.workers import Workers


def finish_run(
    session: Session,
    found: Sequence[Found],
    test: Data | None,
    workers: Workers,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Return the rows of the summary, in the order of ``found``, with each winner's files written.

    The winners are scored on ``test`` once, here; their latency is measured together with the dense
    network's while the workers are idle. Nothing is measured for a table of another machine.
    """
    with reporter.task("testing and fine-tuning the winners", len(found)) as bar:
        results = finals(session, found, test, workers)
        bar.advance(len(found))
    for note in dict.fromkeys(note for final in results for note in final.notes):
        reporter.message(f"note: {note}")
    found = [replace(one, state=final.state) for one, final in zip(found, results, strict=True)]
    with reporter.task("measuring the winners", None):
        measured = _measure(session, found)
    dense = Dense(*dense_scores(session, test), session.dense_cost, measured.get("dense"))
    images = 0 if test is None else len(test)
    rows = [
        write_result(session, Result(one, final, measured.get(one.search.name), dense, images))
        for one, final in zip(found, results, strict=True)
    ]
    draw_progress(session, found)
    return rows


def _measure(session: Session, found: Sequence[Found]) -> dict[str, Measured]:
    """Return the measured latency of every winner by its search's name, and of ``dense``."""
    if not is_here(session.table):
        return {}
    task, space = session.task, session.space
    networks = {"dense": task.network}
    for one in found:
        kept = kept_of(one.best.request.plan)
        networks[one.search.name] = compress(task.network, space.groups, kept)
    size = session.config.latency.batch_size
    yardstick = (network_key(task.network_digest, size), task.network)
    return measure_networks(networks, task.batch(size), session.table, yardstick)


def finals(
    session: Session, found: Sequence[Found], test: Data | None, workers: Workers
) -> list[Final]:
    """Return each winner on the test split, before and after the same short fine-tuning.

    Raises ``RuntimeError`` where a winner's score does not come out as the search recorded it.
    """
    steps = session.config.finetune_steps
    results = workers.finalise([(f.best.request.plan, f.state, test, steps) for f in found])
    for one, final in zip(found, results, strict=True):
        if final.searched != one.best.score:
            raise RuntimeError(
                f"{one.search.name}: the winner scores {final.searched!r} when built "
                f"again, but the search recorded {one.best.score!r}; the evaluation is not "
                "reproducible here"
            )
    return results


def dense_scores(session: Session, test: Data | None) -> tuple[float, float | None]:
    """Return the dense network's scores on the search and the test split."""
    task = session.task
    on_test = None if test is None else score(task.network, test, task.score)
    return score(task.network, task.search, task.score), on_test


def track(tracker: Tracker, row: Mapping[str, Any], folder: Path) -> None:
    """Give the tracker the final metrics, with the same keys for every agent, and the files."""
    keys = ("search_accuracy", "test_accuracy", "finetuned_test_accuracy", "macs", "params")
    final = {f"final/{key}": row[key] for key in (*keys, "speedup")}
    for kind in ("predicted", "measured"):
        seconds = row[f"{kind}_latency_s"]
        final[f"final/{kind}_latency_ms"] = None if seconds is None else 1000 * seconds
    tracker.log(
        row["evaluations"],
        {key: float(value) for key, value in final.items() if value is not None},
    )
    for name in ("plan.json", "tradeoff.png", "keep_ratios.png"):
        tracker.artifact(folder / name)
