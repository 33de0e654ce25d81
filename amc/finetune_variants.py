"""The networks that a fine-tuned one is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from amc.compress import kept_of
from amc.finetune import FinetuneJob
from amc.plan_file import PlanFile


def variants(job: FinetuneJob, notes: Callable[[str], None]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks that a fine-tuned one is held against, by the recovery that they had.

    They are ``dense``, then with the plan's channels ``compressed``, ``batch_norm``,
    ``least_squares``, ``least_squares+batch_norm``, a ``progressive`` recovery where it was the
    search's, and ``plan`` where that names weights of its own. Each is to be used before the next
    is taken. ``notes`` hears of ill-conditioned layers.
    """
    yield "dense", job.task.network
    kept = kept_of(job.plan.plan)
    yield "compressed", job.recover(job.recovered("none"), kept)
    yield "batch_norm", job.recover(job.recovered("batch_norm"), kept)
    least_squares = job.recovered("least_squares+batch_norm")
    network = job.compressed(kept)
    least_squares.reconstruct(network, kept)
    job.pruner.prune(network, job.plan.plan)
    yield "least_squares", network
    least_squares.recalibrate(network)
    yield "least_squares+batch_norm", network
    found = [*least_squares.notes]
    if (searched := job.plan.evaluation.recovery).startswith("progressive"):
        progressive = job.recovered(searched)
        yield searched, job.recover(progressive, kept)
        found += progressive.notes
    for note in found:
        notes(note)
    if job.plan.weights is not None:
        yield "plan", job.from_plan()


def recovered_as(plan: PlanFile) -> str:
    """Return which of ``variants`` has the dense network's weights and the search's recovery."""
    return "compressed" if plan.evaluation.recovery == "none" else plan.evaluation.recovery


def searched_as(plan: PlanFile) -> str:
    """Return which of ``variants`` is the network that the search scored."""
    return recovered_as(plan) if plan.weights is None else "plan"
