"""One search of a run, from its journal to what it found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from amc import faults
from amc.config import SearchConfig
from amc.cost import Budget
from amc.earlier_outbox import Continued
from amc.errors import BudgetSpent, FailedAlike
from amc.evaluation import Evaluation, Evaluator
from amc.evaluators import CachedEvaluator, FailureGuard, ScoringEvaluator
from amc.journal import Journal
from amc.plan import Plan, digest
from amc.replay import Clock, JournaledEvaluator, RecordedEvaluator, answered
from amc.reporting import Reporter
from amc.run_folder import RunFolder, Search
from amc.search_task import SearchTask, seed_everything
from amc.session import Session
from amc.tracked import params_of, points
from amc.tracking import TimedTracker, Tracker, open_tracker
from amc.weights import Weights
from amc.worker import State, state_tensors
from amc.workers import Workers


class SearchMethod(Protocol):
    """What the core needs of an agent; ``agents.base`` has the contract in full."""

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the method cannot work with this task."""

    def search(self, task: SearchTask) -> None:
        """Search until done, or until ``BudgetSpent``."""


@dataclass(frozen=True)
class Found:
    """What one search came to: its evaluations, the winner and the weights of its score.

    ``best`` is ``None`` where no evaluation met the budget; ``family`` is ``SearchTask.family``.
    ``times`` says where ``search_s`` went: see ``times_of``; ``agent_s_at`` has the agent's own
    seconds up to each evaluation of ``history``. With ``elsewhere`` some answers come
    from another machine or other code. ``failure`` is why a search ended before its time; it has
    neither winner nor family then, whatever it had found.
    """

    search: Search
    history: Sequence[Evaluation]
    best: Evaluation | None
    state: State | None
    search_s: float
    family: Sequence[Evaluation] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    elsewhere: bool = False
    failure: str | None = None
    agent_s_at: Sequence[float] = ()


def tracker_for(
    folder: RunFolder, search: Search, journal: Journal, budget: Budget, reporter: Reporter
) -> Tracker:
    """Return the tracker of one search of a run, which goes on in the record that it had."""
    return open_tracker(
        search.folder,
        experiment=folder.config.experiment,
        run_name=f"{folder.path.name}/{search.name}",
        warn=reporter.message,
        uri=folder.config.tracking_uri,
        continued=Continued(journal.continues, budget),
    )


def run_search(
    session: Session,
    search: Search,
    journal: Journal,
    method: SearchMethod,
    workers: Workers,
    reporter: Reporter,
    tracker: Tracker,
    shared: Mapping[str, Evaluation] | None = None,
) -> Found:
    """Make one search, answering from its journal what is already there; return what it found.

    ``shared`` are answers of other searches, by key, that left no weights. The weights of the
    winner and of the family are on disk afterwards. A search whose evaluations fail alike keeps all
    of them, for going on.
    """
    timed = TimedTracker(tracker)
    timed.start(tracked_params(session, search), {"agent": search.agent, "task": session.task.name})
    pricing = replace(session.pricing(), context=journal.context)
    scoring = ScoringEvaluator(workers, pricing)
    weights = scoring.weights = Weights(
        search.folder / "weights", scoring.rerun, elsewhere=bool(journal.earlier)
    )
    for evaluation in [*journal.earlier, *journal.records]:
        weights.note(evaluation)

    def make_plan(widths: Sequence[int], parent: str | None) -> Plan:
        if parent is None:
            return session.plan(widths)
        start = weights.start(parent)
        return session.plan(widths, state_tensors(start.state), start.plan)

    replay = JournaledEvaluator(_asked(session, journal, scoring, shared or {}), journal)
    evaluator = session.racing(replay, scoring)
    task = session.search_task(search.agent, search.seed, evaluator, make_plan)
    name = f"{search.agent} seed {search.seed}"
    bar = reporter.task(name, task.evaluations)
    agent_s_at: list[float] = []

    def times() -> dict[str, float]:
        journal_s, search_s = journal.seconds - opened_s, time.perf_counter() - begin
        return times_of(search_s, replay.clock, journal_s, timed.spent_s)

    def on_batch(batch: list[Evaluation]) -> None:
        agent_s_at.extend([times()["agent_s"]] * len(batch))
        _report(session, task, batch, bar, timed)

    task.on_batch = on_batch
    task.notify = lambda message: reporter.message(f"{name}: {message}")
    seed_everything(digest_seed(search))
    opened_s, begin = journal.seconds, time.perf_counter()
    failure = None
    try:
        with bar, contextlib.suppress(BudgetSpent):
            method.search(task)
    except FailedAlike as error:
        failure = str(error)
        reporter.message(f"{name}: {failure}")
    elapsed_s = time.perf_counter() - begin
    faults.point("search.ended")
    if replay.clock.replayed:
        reporter.message(f"{name}: {replay.clock.told()}")
    found = Found(
        *(search, task.history, None, None, elapsed_s, (), times(), bool(journal.earlier)),
        agent_s_at=agent_s_at,
    )
    if failure is not None:
        return replace(found, failure=failure)
    best, family = task.best(), [weights.kept(member) for member in task.family]
    state = weights.start(best.key).state if best and best.weights_sha256 else None
    weights.drop_unused()
    return replace(found, best=best, state=state, family=family)


def _asked(
    session: Session, journal: Journal, scoring: Evaluator, shared: Mapping[str, Evaluation]
) -> FailureGuard:
    """Return what the journal asks: the cache, then others that know the answer, then workers."""
    context = journal.context
    recorded = RecordedEvaluator(scoring, answered(journal.earlier), context, "recorded")
    known = RecordedEvaluator(recorded, shared, context, "shared")
    cache = CachedEvaluator(known, context, enabled=session.config.cache)
    for evaluation in journal.records:
        cache.note(evaluation)
    return FailureGuard(cache, journal.records)


def times_of(
    search_s: float, clock: Clock, journal_s: float, tracking_s: float
) -> dict[str, float]:
    """Return where a search's seconds went, as its row of the summary says.

    ``evaluation_s`` on the workers, ``journal_s`` writing records, ``tracking_s`` telling the
    tracker, ``replay_s`` answering ``replayed`` requests from the records, ``agent_s`` all else:
    training, proposing, and what is shown.
    """
    rest = search_s - clock.evaluation_s - journal_s - tracking_s - clock.replay_s
    return {
        "evaluation_s": round(clock.evaluation_s, 3),
        "journal_s": round(journal_s, 6),
        "tracking_s": round(tracking_s, 6),
        "agent_s": round(max(0.0, rest), 3),
        "replayed": clock.replayed,
        "replay_s": round(clock.replay_s, 6),
    }


def digest_seed(search: Search) -> int:
    """Return the seed of the global generators: by seed and agent."""
    return int(digest([search.agent, search.seed])[:8], 16)


def _report(
    session: Session, task: SearchTask, batch: list[Evaluation], bar: Any, tracker: Tracker
) -> None:
    best = task.best()
    note = f"best {100 * best.in_task_unit:.2f}%" if best else "no plan within the budget yet"
    if stopped := stopped_early(task.history):
        note += f", {stopped} stopped early"
    if infeasible := sum(not e.feasible for e in task.history):
        note += f", {infeasible} infeasible"
    bar.advance(len(batch), note)
    first = len(task.history) - len(batch) + 1
    tracker.log_batch(first, points(session.budget, task.history, first, best))
    faults.point("search.batch_seen")


def stopped_early(history: Sequence[Evaluation]) -> int:
    """Return how many evaluations racing ended, without requests answered from the cache."""
    return sum(e.stopped_after is not None and not e.cached for e in history)


def tracked_params(session: Session, search: Search) -> Mapping[str, Any]:
    """Return every parameter of one search, for the tracker."""
    return params_of(
        session.config,
        search,
        device=str(session.table.device.get("cpu", "")),
        table_digest=session.table.digest,
        network_digest=session.task.network_digest,
        budget_limit=session.budget.limit,
    )


def folder_for(config: SearchConfig) -> Path:
    """Return the folder of a run that was given none: by task and time of start."""
    return Path("runs") / f"{config.task.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
