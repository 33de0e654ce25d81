"""An arena at work: its searches side by side, what each came to, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from amc.actor import Actor
from amc.arena import TARGET, Bout, Experiment
from amc.arena_kept import kept_of, on_record, provenance
from amc.arena_record import Arena, TaskFacts, cumulated
from amc.failures import Failure
from amc.files import write_json
from amc.learning_curves import best_so_far, within
from amc.reporting import Reporter
from amc.run_folder import RunFolder
from amc.search_run import Found
from amc.session import Session
from amc.workers import Limits, cores


@dataclass(frozen=True)
class Trouble:
    """Why a search could not be made; ``again`` unless the same command cannot make it either."""

    why: str
    again: bool = True


# Makes one search, leaves its files, and returns why it could not, or nothing.
Make = Callable[[Bout], Trouble | None]


def unfinished(bouts: Sequence[Bout]) -> list[Bout]:
    """Return the searches that are still to be made; those that are begun are gone on with.

    Where what is kept of a search does not fit its journal, it is made again from there.
    Raises ``InputError`` where a run folder is of another configuration than the search is now.
    """
    for bout in bouts:
        if (bout.folder / "config.yaml").exists():
            RunFolder.open(bout.folder).again(bout.config)
    return [bout for bout in bouts if kept_of(bout) is None]


def make_all(
    bouts: Sequence[Bout], make: Make, count: int | None, reporter: Reporter
) -> dict[str, Trouble]:
    """Make every search; return why those that failed did, by name.

    They are spread over ``count`` processes (``None``: one a core), or made here, one after the
    other, for 0. Each task has a bar. One for which memory was too little is tried once more.
    """
    results: list[Any] = []
    with ExitStack() as stack:
        tasks = [bout.task for bout in bouts]
        bars = {
            task: stack.enter_context(reporter.task(task, tasks.count(task)))
            for task in dict.fromkeys(tasks)
        }

        def finished(position: int, seconds: float, worker: str, earlier: tuple[str, ...]) -> None:
            bars[tasks[position]].advance(1, bouts[position].folder.name)

        if count == 0:
            here = Actor()
            for position, bout in enumerate(bouts):
                result = here.do(make, bout)[0]
                if isinstance(result, Failure):  # once more, with what it held let go
                    result = here.do(make, bout)[0]
                results.append(result)
                finished(position, 0.0, "", ())
        elif bouts:
            results = _on_ray(bouts, make, count, reporter, finished)
    return {
        bout.name: Trouble(result.reason) if isinstance(result, Failure) else result
        for bout, result in zip(bouts, results, strict=True)
        if result is not None
    }


def _on_ray(
    bouts: Sequence[Bout],
    make: Make,
    count: int | None,
    reporter: Reporter,
    finished: Callable[[int, float, str, tuple[str, ...]], None],
) -> list[Any]:
    from amc.ray_workers import RayWorkers

    count = min(cores() if count is None else count, len(bouts))
    reporter.message(f"{len(bouts)} searches, {count} at a time")
    attempts = max(bout.config.attempts for bout in bouts)
    pool = RayWorkers(None, count, limits=Limits(attempts), warn=reporter.message)
    try:
        return pool.do(make, [(bout,) for bout in bouts], finished)
    finally:
        pool.close()


def keep(
    bout: Bout, session: Session, found: Found, row: Mapping[str, Any], whole: float | None
) -> None:
    """Write what a search came to; ``whole`` is its winner's score on the whole search split.

    ``row`` is that of the run's summary, with ``whole_search_images`` and ``dense_search_accuracy``
    besides, which are of the whole split as well.
    """
    own = [float(e.observed.get("evaluation_s", 0.0)) for e in found.history]
    agent_s = found.agent_s_at[-1] if found.agent_s_at else 0.0
    taken = zip(found.agent_s_at, cumulated(own), strict=True)
    copied = (
        *("test_accuracy", "finetuned_search_accuracy", "finetuned_test_accuracy"),
        *("macs", "params", "predicted_latency_s", "budget_used", "failure"),
    )
    values = [None if e is None else e.score for e in within(found.history, session.budget)]
    run = {
        "task": bout.task,
        "agent": bout.label,
        "method": bout.agent,
        "seed": bout.seed,
        "evaluations": len(found.history),
        "best": best_so_far(values),
        "seconds": [round(agent + own, 6) for agent, own in taken],
        "evaluation_s": round(sum(own), 6),
        "agent_s": agent_s,
        "wall_s": round(agent_s + sum(own), 6),
        "cached": sum(e.cached for e in found.history),
        "shared": sum(bool(e.observed.get("shared")) for e in found.history),
        "searched_accuracy": row["search_accuracy"],
        "search_accuracy": whole,
        **{key: row[key] for key in copied},
    }
    made, recorded = on_record(bout)
    kept = {"run": run, "task": _facts(session, row), "made": made, "recorded": recorded}
    write_json(bout.scores, kept)


def _facts(session: Session, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the searches of a task share."""
    config = session.config
    return {
        "network": config.task,
        "space": config.space,
        "budget": dict(config.budget),
        "metric": row["metric"],
        "recovery": config.recovery,
        "evaluations": config.evaluations,
        "score": config.score,
        "search_images": row["search_images"],
        "whole_search_images": row["whole_search_images"],
        "test_images": row["test_images"],
        "finetune_steps": config.finetune_steps,
        "batch_size": config.latency.batch_size,
        "dense_search_accuracy": row["dense_search_accuracy"],
        "dense": row["dense"],
    }


def collected(experiment: Experiment, name: str, bouts: Sequence[Bout]) -> Arena | None:
    """Return the arena of the searches that are done; ``missing`` names the others.

    ``None`` where none is.
    """
    kept = {bout.name: one for bout in bouts if (one := kept_of(bout)) is not None}
    if not kept:
        return None
    runs = tuple(one.run for one in kept.values())
    facts: dict[str, TaskFacts] = {}
    for one in kept.values():
        if one.task.test_images or one.run.task not in facts:
            facts[one.run.task] = one.task
    tasks = tuple(task for task in experiment.tasks if task in facts)
    tables = [bouts[0].folder.parents[1] / task / TARGET for task in tasks]
    return Arena(
        name=name,
        tasks=tasks,
        agents=tuple(a for a in experiment.entries if any(run.agent == a for run in runs)),
        task_facts=facts,
        entries={label: e.model_dump(mode="json") for label, e in experiment.entries.items()},
        runs=runs,
        missing=tuple(bout.name for bout in bouts if bout.name not in kept),
        provenance=provenance([*kept.values()], tables),
    )
