"""``amc bench evaluation``: what an evaluation costs by part, beside a bare forward pass.

Every plan is evaluated with shortcuts and without them, run forward alone, and evaluated as
published (``amc.bench_reference``), in turns within one session. A whole ``ddpg`` search follows.

A shortcut leaves out work that an evaluation asks for: BatchNorm folded into weights, answers from
the cache. Which library, memory format and batch size run the network is none: ``evaluation_s`` is
without shortcuts, and by ``amc.scoring`` where the session has it on, whose compiled layers apply
every BatchNorm to the sums of a convolution; ``eager_...`` is by plain torch,
``eager_forward_s`` at its own best batch size. ``forward_s`` is of
the same forward pass as ``evaluation_s``, so that ``over_forward`` is what we add to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from amc.bench_reference import SCORING_BATCH, Reference
from amc.compress import compress, kept_of
from amc.data import Data
from amc.errors import InputError
from amc.evaluation import Request
from amc.evaluators import ScoringEvaluator
from amc.plan import Plan
from amc.reporting import Reporter
from amc.scoring.program import Forward
from amc.search_run import Found, stopped_early
from amc.session import Session
from amc.worker import BATCH
from amc.workers import InProcess

PARTS = ("select_s", "build_s", "reconstruct_s", "recalibrate_s", "score_s", "overhead_s")
NETWORKS = ("resnet20", "mobilenet")


@dataclass(frozen=True)
class Settings:
    """How much is timed: ``plans`` random ones, each ``rounds`` times; ``seed`` draws them."""

    plans: int = 4
    rounds: int = 5
    seed: int = 0


def evaluation(
    session: Session, search: Callable[[], Found], settings: Settings, reporter: Reporter
) -> dict[str, Any]:
    """Return the times of one network, in seconds, medians over plans and rounds.

    ``session`` has the shortcuts on, and ``search`` makes the search with it, racing too. Ratios
    are medians of those within each turn. ``search_evaluation_s`` is the mean over the evaluations
    of the search that were made, ``search_stopped`` of which racing ended early; cached requests
    are apart. ``agent_s`` is the rest of the search: the agent, its environment, costs and the
    journal. ``reference_over_search_evaluation`` is how many times as long the published evaluation
    takes as a request of the search does, all included; ``reference_over_search_work`` leaves
    ``agent_s`` out.
    """
    if any(site.decides != "channels" for site in session.space.sites):
        raise InputError(
            f"bench evaluation is for space 'channel', as the published procedure removes channels "
            f"alone, but got {session.config.space!r}; set space: channel"
        )
    plans = random_plans(session, settings.plans, settings.seed)
    with reporter.task(f"timing {session.task.name}", len(plans) * settings.rounds) as bar:
        fast, preparation_s = _prepared(session)
        plain, plain_preparation_s = _prepared(
            _changed(session, fold_batch_norm=False, racing=None)
        )
        eager, _ = _prepared(
            _changed(session, fold_batch_norm=False, racing=None, fast_scoring=False)
        )
        pools = _Pools(fast, plain, eager)
        begin = time.perf_counter()
        reference = Reference(session.task.network, session.space.groups, session.calibration)
        reference_preparation_s = time.perf_counter() - begin
        turns = []
        for turn in range(settings.rounds):
            for plan in plans:
                turns.append(_turn(session, plan, pools, reference))
                bar.advance(1, f"round {turn + 1} of {settings.rounds}")
    summary = _summary(turns, len(session.task.search))
    return {
        "network": session.task.name,
        "recovery": session.config.recovery,
        "calibration_images": len(session.calibration),
        "search_images": len(session.task.search),
        "plans": settings.plans,
        "rounds": settings.rounds,
        **summary,
        "preparation_s": preparation_s,
        "preparation_without_shortcuts_s": plain_preparation_s,
        "reference_preparation_s": reference_preparation_s,
        **_of_search(search(), len(session.task.search), summary["reference_s"]),
    }


def random_plans(session: Session, count: int, seed: int) -> list[Plan]:
    """Return plans of random keep ratios, widened or narrowed together to just meet the budget."""
    generator = np.random.default_rng(seed)
    space, model, budget = session.space, session.cost_model, session.budget
    plans = []
    for _ in range(count):
        shape = generator.uniform(0.4, 1.0, len(space.sites))
        scaled = np.minimum(1.0, np.linspace(0.05, 2.5, 200)[:, None] * shape)
        widths = np.array(
            [
                [s.nearest(r * s.full) for s, r in zip(space.sites, row, strict=True)]
                for row in scaled
            ]
        )
        fits = model.costs(widths)[budget.field] <= budget.limit
        last = int(np.flatnonzero(fits)[-1]) if fits.any() else 0
        plans.append(space.plan(widths[last].tolist()))
    return plans


@dataclass(frozen=True)
class _Pools:
    """A worker with shortcuts, one without, and one that scores by plain torch."""

    fast: InProcess
    plain: InProcess
    eager: InProcess


def _changed(session: Session, **options: bool | None) -> Session:
    return replace(session, config=session.config.model_copy(update=options))


def _prepared(session: Session) -> tuple[InProcess, float]:
    """Return a worker in this process that is ready, and the seconds that this took."""
    begin = time.perf_counter()
    pool = InProcess(session.job())
    pool.prepare()
    return pool, time.perf_counter() - begin


def _turn(session: Session, plan: Plan, pools: _Pools, reference: Reference) -> dict[str, float]:
    """Return the times and scores of one plan, each way of evaluating it once."""
    bare = compress(session.task.network, session.space.groups, kept_of(plan)).eval()
    bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    search = session.task.search.channels_last()
    own = _evaluated(session, pools.plain, plan)
    forward_s = _forward_s(pools.plain.worker.forward.of(bare), search)
    quick = _evaluated(session, pools.fast, plan)
    folded_forward_s = _forward_s(pools.fast.worker.forward.of(bare), search)
    eager = _evaluated(session, pools.eager, plan)
    eager_forward_s = _forward_s(bare, search, SCORING_BATCH)
    published = reference.evaluate(kept_of(plan), search, session.task.score)
    return {
        **own,
        "forward_s": forward_s,
        "shortcut_evaluation_s": quick["evaluation_s"],
        "folded_forward_s": folded_forward_s,
        "eager_evaluation_s": eager["evaluation_s"],
        "eager_forward_s": eager_forward_s,
        "reference_s": published.evaluation_s,
        "reference_reconstruct_s": published.reconstruct_s,
        "reference_forward_s": published.score_s,
        "over_forward": own["evaluation_s"] / forward_s,
        "shortcuts_over_folded_forward": quick["evaluation_s"] / folded_forward_s,
        "eager_over_forward": eager_forward_s / forward_s,
        "reference_over_evaluation": published.evaluation_s / own["evaluation_s"],
        "score_difference": own["score"] - published.score,
        "shortcut_score_difference": quick["score"] - own["score"],
        "eager_score_difference": eager["score"] - own["score"],
    }


def _evaluated(session: Session, pool: InProcess, plan: Plan) -> dict[str, float]:
    """Return score and seconds, by part, of one evaluation as a search makes it."""
    scoring = ScoringEvaluator(pool, session.pricing())
    widths = [len(choice.kept) for choice in plan.choices.values()]
    begin = time.perf_counter()
    selected = session.space.plan(widths)
    select_s = time.perf_counter() - begin
    begin = time.perf_counter()
    (answer,) = scoring.evaluate([Request(selected)])
    evaluation_s = select_s + time.perf_counter() - begin
    seen = answer.observed
    parts = {
        "select_s": select_s,
        "build_s": seen["build_s"],
        "reconstruct_s": seen["reconstruct_s"],
        "recalibrate_s": seen["recover_s"] - seen["reconstruct_s"],
        "score_s": seen["score_s"],
    }
    overhead_s = evaluation_s - sum(parts.values())
    return {
        "score": answer.in_task_unit,
        "evaluation_s": evaluation_s,
        **parts,
        "overhead_s": overhead_s,
    }


@torch.inference_mode()
def _forward_s(network: Forward, data: Data, size: int = BATCH) -> float:
    """Return the seconds of a forward pass over ``data``, weights packed before."""
    network(*data[:2].inputs)
    begin = time.perf_counter()
    for batch in data.batches(size):
        network(*batch.inputs)
    return time.perf_counter() - begin


def _summary(turns: Sequence[Mapping[str, float]], images: int) -> dict[str, Any]:
    """Return medians over the turns, and the largest differences of scores."""
    medians = {key: float(np.median([turn[key] for turn in turns])) for key in turns[0]}
    differences = {key: medians.pop(key) for key in list(medians) if key.endswith("difference")}
    parts = {part: medians.pop(part) for part in PARTS}
    del medians["score"]
    return {
        **medians,
        "images_per_s": images / medians["evaluation_s"],
        "forward_images_per_s": images / medians["forward_s"],
        **{f"largest_{key}": max(abs(turn[key]) for turn in turns) for key in differences},
        "parts": parts,
    }


def _of_search(found: Found, images: int, reference_s: float) -> dict[str, Any]:
    """Return what a whole search took: a request made, and beside them all, the agent."""
    evaluations = [e for e in found.history if not e.cached]
    made = [e.observed["evaluation_s"] for e in evaluations]
    seen = [e.stopped_after or images for e in evaluations]
    requests = len(found.history)
    agent_s = found.search_s - sum(made)
    return {
        "search_agent": found.search.agent,
        "search_requests": requests,
        "search_cached": requests - len(made),
        "search_stopped": stopped_early(found.history),
        "search_image_share": sum(seen) / (images * requests),
        "search_s": found.search_s,
        "search_evaluation_s": sum(made) / len(made),
        "reference_over_search_evaluation": reference_s * requests / found.search_s,
        "reference_over_search_work": reference_s * requests / sum(made),
        "agent_s": agent_s,
        "agent_share": agent_s / found.search_s,
    }
