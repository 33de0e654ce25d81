"""The end of a run: its winners on images that no search has seen, and on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amc.compress import realised
from amc.data import Data
from amc.errors import SearchFailed
from amc.latency.table import network_key
from amc.plan import Plan
from amc.plan_record import Dense, Result
from amc.pricing import is_here
from amc.reporting import Reporter
from amc.results import draw_progress, write_failure, write_result
from amc.search_run import Found
from amc.session import Session
from amc.sparsify import layer_patterns
from amc.timing import Measured, measure_networks
from amc.tracking import Tracker
from amc.worker import Final, State, score, state_tensors
from amc.workers import Workers


def finish_run(
    session: Session,
    found: Sequence[Found],
    test: Data | None,
    workers: Workers,
    reporter: Reporter,
    *,
    timed: bool = True,
) -> list[dict[str, Any]]:
    """Return the rows of the summary, in the order of ``found``, with each search's files written.

    A search without a winner has a row as well, which says so. The winners are scored on ``test``
    once, here; their latency is measured together with the dense network's while the workers are
    idle. Nothing is measured for a table of another machine, or without ``timed``, as beside
    other runs. Where no search has a winner and the evaluations of one failed alike, the dense
    network is neither scored nor timed: it may well fail like them.
    """
    won = [(one, one.best) for one in found if one.best is not None]
    sound = bool(won) or not any(one.failure for one in found)
    with reporter.task("testing and fine-tuning the winners", len(won)) as bar:
        results = finals(session, [one for one, _ in won], test, workers)
        bar.advance(len(won))
    for note in dict.fromkeys(note for final in results for note in final.notes):
        reporter.message(f"note: {note}")
    measured = {}
    if sound and timed:
        with reporter.task("measuring the winners", None):
            built = {
                one.search.name: (best.request.plan, final.state)
                for (one, best), final in zip(won, results, strict=True)
            }
            measured = _measure(session, built)
    if won and timed and not measured:
        reporter.message(
            "note: no latency was measured: the table is of another machine or torch, or of "
            f"another number of usable cores ({session.table.device.get('cpu')}, "
            f"{session.table.device.get('cores')} cores, torch {session.table.torch_version})"
        )
    scores: tuple[float | None, float | None] = (None, None)
    if sound:
        scores = dense_scores(session, test)
    dense = Dense(*scores, session.dense_cost, measured.get("dense"))
    images = 0 if test is None else len(test)
    rows = {}
    for (one, best), final in zip(won, results, strict=True):
        result = Result(
            replace(one, state=final.state),
            best,
            final,
            measured.get(one.search.name),
            dense,
            images,
        )
        rows[one.search.name] = write_result(session, result)
    draw_progress(session, found)
    return [rows.get(one.search.name) or write_failure(session, one, dense) for one in found]


def _measure(
    session: Session, plans: Mapping[str, tuple[Plan, State | None]]
) -> dict[str, Measured]:
    """Return the measured latency of ``plans`` and their weights, by name, and of ``dense``."""
    if not is_here(session.table):
        return {}
    task, space = session.task, session.space
    networks = {"dense": task.network}
    for name, (plan, state) in plans.items():
        networks[name] = realised(task.network, space.groups, plan)
        if state is not None:
            networks[name].load_state_dict(state_tensors(state))
    patterns = {name: layer_patterns(plan) for name, (plan, _) in plans.items()}
    size = session.config.latency.batch_size
    yardstick = (network_key(task.network_digest, size), task.network)
    inputs = task.batch(size)
    return measure_networks(networks, inputs, session.table, yardstick, patterns=patterns)


def finals(
    session: Session, found: Sequence[Found], test: Data | None, workers: Workers
) -> list[Final]:
    """Return each winner on the test split, before and after the same short fine-tuning.

    Every one of ``found`` must have a winner. Raises ``SearchFailed`` where a winner's score does
    not come out as the search recorded it.
    """
    steps = session.config.finetune_steps
    best = [one.best for one in found if one.best is not None]
    work = [(b.request.plan, one.state, test, steps) for one, b in zip(found, best, strict=True)]
    results = workers.finalise(work)
    for one, recorded, final in zip(found, best, results, strict=True):
        if final.searched != recorded.score and not one.elsewhere:
            raise SearchFailed(
                f"{one.search.name}: the winner scores {final.searched!r} when built again, but "
                f"the search recorded {recorded.score!r}: the task {session.config.task!r} does "
                "not score equal networks alike; make its score deterministic, with generators of "
                "its own, and search in another folder"
            )
    return results


def dense_scores(session: Session, test: Data | None) -> tuple[float, float | None]:
    """Return the dense network's scores on the search and the test split."""
    task = session.task
    on_test = None if test is None else score(task.network, test, task.score)
    return score(task.network, task.search, task.score), on_test


def track(tracker: Tracker, row: Mapping[str, Any], folder: Path) -> None:
    """Give the tracker the final metrics, with the same keys for every agent, and the files.

    A search without a plan is closed as failed.
    """
    keys = ("search_accuracy", "test_accuracy", "finetuned_test_accuracy", "macs", "params")
    final = {f"final/{key}": row.get(key) for key in (*keys, "speedup")}
    for kind in ("predicted", "measured"):
        seconds = row.get(f"{kind}_latency_s")
        final[f"final/{kind}_latency_ms"] = None if seconds is None else 1000 * seconds
    tracker.log(
        row["evaluations"],
        {key: float(value) for key, value in final.items() if value is not None},
    )
    for name in ("plan.json", "tradeoff.png", "keep_ratios.png"):
        if (folder / name).is_file():
            tracker.artifact(folder / name)
    if row.get("failure"):
        tracker.finish("failed")
