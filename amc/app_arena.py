"""``amc arena`` put together: every search of an experiment, and what they come to. Part of
``amc.app``.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from amc import finish
from amc.arena import TARGET, Bout, Experiment, bouts_of, read_experiment
from amc.arena_measure import measure_winners
from amc.arena_record import read_arena
from amc.arena_report import write_report
from amc.arena_run import Trouble, collected, keep, make_all, unfinished
from amc.arena_sharing import Answers
from amc.assembly import check_agents, journal_facts, make_agent, prepare
from amc.config import SearchConfig
from amc.data import Data
from amc.driven import driven, open_journals
from amc.errors import InputError, SearchFailed
from amc.failures import failure_of
from amc.files import check_writable
from amc.ownership import owned
from amc.reporting import Reporter, SilentReporter
from amc.results import write_summary
from amc.run_folder import RunFolder
from amc.search_run import Found, run_search, tracker_for
from amc.session import Session
from amc.store_uri import DATABASE, OFF, SQLITE, check_confided, chosen
from amc.task import load_task
from amc.tracking import tracked
from amc.worker import score
from amc.workers import InProcess

RUN_DIR, OUT_DIR = Path("runs/arena"), Path("experiments/results")
MOST = 1024  # workers
ORPHANED_S = 60.0  # for which workers may outlive a driver that was killed
KEPT = 2  # sessions that a process keeps for the next search of the same task


@dataclass(frozen=True)
class Prepared:
    """What the searches of a task share. ``whole`` is the search split, of which they see some;
    ``dense_score`` is the dense network's on all of it.
    """

    session: Session
    test: Data | None
    whole: Data
    dense_score: float
    workers: InProcess


def arena(
    source: Path,
    run_dir: Path | None = None,
    tasks: Sequence[str] | None = None,
    workers: int | None = None,
    out_dir: Path | None = None,
    reporter: Reporter | None = None,
    collect: bool = False,
) -> dict[str, Any]:
    """Make the searches of an experiment's file side by side; return the ranking, and its files.

    What is done in ``run_dir`` is not done again; ``tasks`` are all by default, with ``collect`` no
    search is made. Of an ``arena.json`` the report alone is made. ``failures`` has the searches
    that could not be made, and whether the same call may make them.
    """
    reporter = reporter or SilentReporter()
    there, out = run_dir or RUN_DIR, out_dir or OUT_DIR
    if workers is not None and not 0 <= workers <= MOST:
        raise InputError(f"--workers {workers} is no number of workers; choose one of 0 to {MOST}")
    check_writable(out, "--out-dir", folder=True)
    failed: dict[str, Trouble] = {}
    if source.suffix == ".json":
        whole = read_arena(source)
    else:
        reporter.hint(command := again(source, there, tasks, workers, out))
        experiment, name = read_experiment(source), source.stem
        bouts = [_tracked_together(b, there) for b in bouts_of(experiment, name, there, tasks)]
        if not collect:
            failed = make(experiment, bouts, there, workers, reporter, command)
        if (made := collected(experiment, name, bouts)) is None:
            told = next((trouble.why for trouble in failed.values()), "none has been made")
            raise SearchFailed(f"there is no search to report on in {str(there)!r}: {told}")
        whole = made
    failures = [{"search": search, **asdict(trouble)} for search, trouble in failed.items()]
    counts = {"searches": len(whole.runs), "missing": len(whole.missing)}
    return {"name": whole.name, **counts, "failures": failures, **write_report(whole, out)}


def again(
    source: Path, run_dir: Path, tasks: Sequence[str] | None, workers: int | None, out_dir: Path
) -> str:
    """Return the command that goes on with an arena."""
    told = [f"amc arena {source} --run-dir {run_dir}"]
    told += [f"--tasks {','.join(tasks)}"] if tasks else []
    told += [] if workers is None else [f"--workers {workers}"]
    return " ".join([*told, f"--out-dir {out_dir}"])


def make(
    experiment: Experiment,
    bouts: Sequence[Bout],
    run_dir: Path,
    workers: int | None,
    reporter: Reporter,
    command: str,
) -> dict[str, Trouble]:
    """Make what is left of ``bouts``, and time the winners; return by name why searches failed.

    ``command`` is what goes on with it. Raises ``InputError`` where another one is under way.
    """
    check_writable(run_dir, "--run-dir", folder=True)
    check_confided(bouts[0].config.tracking_uri, command)
    for bout in bouts:
        make_agent(bout.agent, bout.config.agents[bout.agent])
    run_dir.mkdir(parents=True, exist_ok=True)
    with owned(run_dir, command):
        left = _priced(unfinished(bouts), reporter)
        failed = make_all(left, make_bout, workers, reporter)
        if experiment.measure:
            measure_winners(bouts, reporter)
        _deliver(bouts, reporter)
    return failed


def make_bout(bout: Bout) -> Trouble | None:
    """Make one search; return why it failed, or nothing. Runs in any process.

    Memory that is too little, and an interruption, are raised. On Ray a search is one piece of
    work: where a plan costs its worker its life, the search is begun again elsewhere, from its
    journal, and given up for this call after ``attempts`` of them.
    """
    try:
        return _searched(bout, _prepared(_shared(bout.config)))
    except Exception as error:
        failure = failure_of(error)
        if failure.kind == "out_of_memory":
            _prepared.cache_clear()
            raise
        if isinstance(error, InputError | SearchFailed):
            return Trouble(str(error), again=isinstance(error, SearchFailed))
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Trouble(f"{failure.reason} ({place.filename}:{place.lineno})")


def _tracked_together(bout: Bout, run_dir: Path) -> Bout:
    """Return the search with one database for the whole arena, where no other store is named."""
    if chosen(bout.config.tracking_uri):
        return bout
    uri = f"{SQLITE}{(run_dir / DATABASE).resolve()}"
    return replace(bout, config=bout.config.model_copy(update={"tracking_uri": uri}))


def _priced(bouts: Sequence[Bout], reporter: Reporter) -> list[Bout]:
    """Return the searches with their task's own latency table, which is taken down the first time.

    So nothing is measured while searches run, and all of them are priced alike. Lets the agents
    refuse a task before anything is evaluated.
    """
    priced, checked = [], set()
    for bout in bouts:
        target = bout.folder.parent / TARGET
        if not target.is_file():
            session, _ = prepare(bout.config, reporter)
            target.parent.mkdir(parents=True, exist_ok=True)
            session.table.save(target)
        latency = bout.config.latency.model_copy(update={"target": str(target)})
        config = bout.config.model_copy(update={"latency": latency})
        if (bout.task, bout.label) not in checked and not bout.folder.exists():
            check_agents(replace(_prepared(_shared(config)).session, config=config))
        checked.add((bout.task, bout.label))
        priced.append(replace(bout, config=config))
    return priced


def _shared(config: SearchConfig) -> str:
    """Return, as JSON, what is the same for all entries and seeds of a task."""
    neutral: dict[str, Any] = {
        "agents": {"uniform": {}},
        "seeds": (0,),
        "evaluations": 1,
        "horizon": 1,
    }
    neutral |= {"experiment": "arena", "tracking_uri": OFF}
    return config.model_copy(update=neutral).model_dump_json()


@lru_cache(maxsize=KEPT)
def _prepared(shared: str) -> Prepared:
    config = SearchConfig.model_validate_json(shared)
    session, test = prepare(config, SilentReporter())
    whole = session.task.search
    if config.search_images is not None:
        whole = load_task(config.task, config.data, config.data_folder).search
    workers = InProcess(session.job(), session.limits())
    workers.prepare()
    dense_score = score(session.task.network, whole, session.task.score)
    return Prepared(session, test, whole, dense_score, workers)


def _searched(bout: Bout, prepared: Prepared) -> Trouble | None:
    """Make one search and finish it but for the timing; keep what it came to."""
    quiet, config, workers = SilentReporter(), bout.config, prepared.workers
    session = replace(prepared.session, config=config)
    facts = journal_facts(session)
    if not bout.folder.exists():
        RunFolder.create(bout.folder, config, facts, session.table.as_json())
    with driven(bout.folder, ORPHANED_S) as there:
        folder = there.again(config)
        (one,), (journal,) = folder.searches, open_journals(folder, facts, quiet, elsewhere=False)
        folder.save()
        method = make_agent(one.agent, config.agents[one.agent])
        with tracked(tracker_for(folder, one, journal, session.budget, quiet)) as tracker:
            others = Answers(bout, facts[one.agent]) if bout.share else None
            found = run_search(session, one, journal, method, workers, quiet, tracker, others)
            (row,) = finish.finish_run(session, [found], prepared.test, workers, quiet, timed=False)
            write_summary(folder.path, [row])
            finish.track(tracker, row, one.folder)
        if found.failure is not None or not found.history:
            return Trouble(found.failure or "it ended without an evaluation")
        of_all: dict[str, float] = {"whole_search_images": len(prepared.whole)}
        of_all["dense_search_accuracy"] = prepared.dense_score
        keep(bout, session, found, {**row, **of_all}, _on_whole(found, row, prepared))
    return None


def _on_whole(found: Found, row: dict[str, Any], prepared: Prepared) -> float | None:
    """Return the winner's score on the whole search split, by the task's own score."""
    if found.best is None or len(prepared.whole) == row["search_images"]:
        known: float | None = row["search_accuracy"]
        return known
    work = found.best.request.plan, found.state, prepared.whole, 0
    return prepared.workers.finalise([work])[0].test_score


def _deliver(bouts: Sequence[Bout], reporter: Reporter) -> None:
    """Give MLflow what waits of the searches that are done."""
    from amc.sync import sync_run

    done = [b for b in bouts if b.scores.is_file() and chosen(b.config.tracking_uri) != OFF]
    if not done:
        return
    left, why = 0, ""
    with reporter.task("delivering to MLflow", len(done)) as bar:
        for bout in done:
            try:
                answer = sync_run(RunFolder.open(bout.folder), None, SilentReporter())
                left, why = left + answer["left"], answer["error"] or why
            except InputError as error:  # what is tracked never costs a result
                left, why = left + 1, str(error)
            bar.advance()
    if left:
        because = f" ({why})" if why else ""
        reporter.message(
            f"note: {left} entries wait for MLflow{because}; the same command tries again"
        )
