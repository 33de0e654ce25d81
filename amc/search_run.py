"""One search of a run, from its journal to what it found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from amc.config import SearchConfig
from amc.cost import BUDGET_KEYS
from amc.errors import BudgetSpent
from amc.evaluation import Evaluation
from amc.evaluators import CachedEvaluator, ScoringEvaluator
from amc.journal import Journal, JournaledEvaluator
from amc.plan import Plan, digest
from amc.reporting import Reporter
from amc.run_folder import Search
from amc.search_task import SearchTask, seed_everything
from amc.session import Session
from amc.tracking import Tracker
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
    """

    search: Search
    history: Sequence[Evaluation]
    best: Evaluation | None
    state: State | None
    search_s: float
    family: Sequence[Evaluation] = ()


def run_search(
    session: Session,
    search: Search,
    method: SearchMethod,
    workers: Workers,
    reporter: Reporter,
    tracker: Tracker,
) -> Found:
    """Make one search, answering from its journal what is already there; return what it found.

    Raises ``InputError`` where the journal belongs to other facts. The weights of the winner and of
    the family are on disk afterwards.
    """
    pricing = session.pricing()
    scoring = ScoringEvaluator(workers, pricing)
    weights = scoring.weights = Weights(search.folder / "weights", scoring.rerun)
    cache = CachedEvaluator(scoring, pricing.context, enabled=session.config.cache)
    journal = Journal(search.journal, session.facts)
    for evaluation in journal.records:
        weights.note(evaluation)
        cache.note(evaluation)

    def make_plan(widths: Sequence[int], parent: str | None) -> Plan:
        if parent is None:
            return session.plan(widths)
        start = weights.start(parent)
        return session.plan(widths, state_tensors(start.state), start.plan)

    evaluator = session.racing(JournaledEvaluator(cache, journal), scoring)
    task = session.search_task(search.agent, search.seed, evaluator, make_plan)
    bar = reporter.task(f"{search.agent} seed {search.seed}", task.evaluations)
    task.on_batch = lambda batch: _report(session, task, batch, bar, tracker)
    task.notify = lambda message: reporter.message(f"{search.agent} seed {search.seed}: {message}")
    seed_everything(digest_seed(search))
    begin = time.perf_counter()
    with bar, contextlib.suppress(BudgetSpent):
        method.search(task)
    elapsed_s, best = time.perf_counter() - begin, task.best()
    for member in task.family:
        if member.weights_sha256:
            weights.start(member.key)
    state = weights.start(best.key).state if best and best.weights_sha256 else None
    return Found(search, task.history, best, state, elapsed_s, task.family)


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
    bar.advance(len(batch), note)
    rows = [point(session, e) for e in batch]
    if best is not None:
        rows[-1]["best_score"] = best.score
    tracker.log_batch(len(task.history) - len(batch) + 1, rows)


def stopped_early(history: Sequence[Evaluation]) -> int:
    """Return how many evaluations racing ended, without requests answered from the cache."""
    return sum(e.stopped_after is not None and not e.cached for e in history)


def point(session: Session, evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics of one evaluation, as tracked and drawn."""
    cost = evaluation.cost
    return {
        "score": evaluation.score,
        "reward": evaluation.reward,
        "predicted_latency_ms": 1000 * cost.latency_s,
        "macs": cost.macs,
        "params": cost.params,
        "budget_used": float(getattr(cost, BUDGET_KEYS[session.budget.key])) / session.budget.limit,
        **({} if evaluation.task_score is None else {"task_score": evaluation.task_score}),
        **({} if evaluation.stopped_after is None else {"stopped_after": evaluation.stopped_after}),
    }


def tracked_params(session: Session, search: Search) -> Mapping[str, Any]:
    """Return every parameter of one search, for the tracker."""
    config = session.config.model_dump(mode="json", exclude={"agents", "seeds", "tracking_uri"})
    return {
        **config,
        "agent": {"name": search.agent, **session.config.agents[search.agent]},
        "seed": search.seed,
        "device": str(session.table.device.get("cpu", "")),
        "table_digest": session.table.digest,
        "network_digest": session.task.network_digest,
    }


def folder_for(config: SearchConfig) -> Path:
    """Return the folder of a run that was given none: by task and time of start."""
    return Path("runs") / f"{config.task.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
