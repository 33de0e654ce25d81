"""One evaluation, on one core: compress, recover, fine-tune where asked, score.

``Job`` is what every worker is given once; ``Worker.run`` is the same code in process and on Ray.
Its answer depends on the job and the work alone, never on the worker or on what it did before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc.compress import kept_of, narrow, realised, remove_blocks, removed_blocks
from amc.config_sections import ScoreName
from amc.coupling import ChannelGroup
from amc.data import Data
from amc.failures import NotFinite, as_score
from amc.forward import ForwardPasses
from amc.plan import Plan
from amc.pruning import Pruner
from amc.racing import Racing
from amc.reconstruction.consumers import Orders
from amc.recovery import Recovery
from amc.scores import Scored, SearchScore
from amc.scoring.program import Forward
from amc.search_task import preserved_generators, seed_everything
from amc.sparsify import layer_patterns
from amc.task import Score
from amc.training import Schedule, fit

State = dict[str, NDArray[np.generic]]
BATCH = 125  # images; measured in experiments/LOG.md


@dataclass(frozen=True)
class Start:
    """Where an evaluation starts from: an earlier plan, and the weights that it was left with."""

    plan: Plan
    state: State


@dataclass(frozen=True)
class Work:
    """One plan to score. ``finetune`` steps of training come first, seeded by ``seed``.

    Where racing, scoring may end once the score is below ``needed``; ``None``: it never does.
    """

    plan: Plan
    start: Start | None
    finetune: int | None
    seed: int
    needed: float | None = None


@dataclass(frozen=True)
class Outcome:
    """``score`` (NaN where outputs were not finite), weights after fine-tuning, and times.

    ``task_score`` and ``stopped_after`` are those of ``amc.scores.Scored``. ``recover_s`` includes
    ``reconstruct_s``, but not what is prepared once a worker.
    """

    score: float
    state: State | None
    build_s: float
    reconstruct_s: float
    recover_s: float
    finetune_s: float
    score_s: float
    task_score: float | None = None
    stopped_after: int | None = None


@dataclass(frozen=True)
class Final:
    """A winner on images that no search has seen, before and after the same short fine-tuning.

    Scores are the task's own, but for ``searched``, which is what the search scored it by.
    ``state`` are the weights that its score depended on, ``None`` where they follow from plan and
    statistics; ``notes`` say what is to be known of how they were reconstructed.
    """

    searched: float
    search_score: float
    test_score: float | None
    finetuned_search_score: float | None
    finetuned_test_score: float | None
    finetuned_state: State | None
    state: State | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """All that the evaluations of one search share. No test data.

    ``orders`` has each group's channels, the most important first, where ``recovery`` uses them;
    ``batch_norm_images`` is how many of ``calibration`` statistics come from (``None``: all). With
    ``fold_batch_norm`` networks are scored with BatchNorm folded away (``amc.folding``), with
    ``fast_scoring`` by ``amc.scoring`` where it can take the network. A search scores by
    ``search_score`` (``amc.scores``); where ``racing``, the images' order is drawn.
    ``weight_criterion`` chooses the weights that go where a plan makes layers sparse.
    """

    network: nn.Module
    groups: tuple[ChannelGroup, ...]
    calibration: Data
    train: Data
    search: Data
    score: Score
    recovery: str
    short_term: Schedule
    orders: Orders = field(default_factory=dict)
    batch_norm_images: int | None = None
    fold_batch_norm: bool = True
    search_score: ScoreName = "task"
    racing: Racing | None = None
    fast_scoring: bool = True
    weight_criterion: str = "magnitude_l1"


class Worker:
    """Evaluates plans of one job on one thread."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        images = job.racing.order(len(job.search)) if job.racing else slice(None)
        self.job = replace(
            job,
            network=job.network.eval(),
            calibration=job.calibration.channels_last(),
            train=job.train.channels_last(),
            search=job.search[images].channels_last(),
        )
        self.recovery = Recovery(
            job.recovery,
            self.job.network,
            job.groups,
            job.orders,
            self.job.calibration,
            job.batch_norm_images,
        )
        self.pruner = Pruner(
            job.weight_criterion, self.job.network, job.groups, self.job.calibration
        )
        example = self.job.search[:2].inputs
        self.forward = ForwardPasses(
            self.job.network,
            job.groups,
            example,
            fast=job.fast_scoring,
            fold=job.fold_batch_norm,
        )
        self._search_score: SearchScore | None = None
        if job.racing or job.search_score != "task":
            score_of = job.search_score, self.job.search, job.score, job.racing
            self._search_score = SearchScore(*score_of, self.job.network, BATCH)

    def run(self, work: Work) -> Outcome:
        """Return the score of one plan on the search split, and weights if it was fine-tuned.

        Networks that draw random numbers, as dropout does, draw those of ``work.seed``. Raises what
        network and score function raise; ``amc.workers.attempt`` has failures instead.
        """
        with preserved_generators():
            seed_everything(work.seed)
            return self._run(work)

    def _run(self, work: Work) -> Outcome:
        self.recovery.prepare()
        clock = [time.perf_counter()]
        network = self.build(work.plan, work.start)
        clock.append(time.perf_counter())
        if work.start is None:
            self.recovery.reconstruct(network, kept_of(work.plan))
        self.pruner.prune(network, work.plan)
        clock.append(time.perf_counter())
        if work.finetune:
            schedule = replace(self.job.short_term, steps=work.finetune)
            fit(network, self.job.train, schedule, work.seed, sparse=layer_patterns(work.plan))
        clock.append(time.perf_counter())
        self.recovery.recalibrate(network)
        clock.append(time.perf_counter())
        scored = self._searched(network, work.needed)
        clock.append(time.perf_counter())
        build_s, reconstruct_s, finetune_s, recalibrate_s, score_s = np.diff(clock).tolist()
        state = state_arrays(network) if work.finetune else None
        if state is not None and not all(np.isfinite(array).all() for array in state.values()):
            raise NotFinite("fine-tuning left weights that are not finite")
        return Outcome(
            score=scored.score,
            state=state,
            build_s=build_s,
            reconstruct_s=reconstruct_s,
            recover_s=reconstruct_s + recalibrate_s,
            finetune_s=finetune_s,
            score_s=score_s,
            task_score=scored.task_score,
            stopped_after=scored.stopped_after,
        )

    def build(self, plan: Plan, start: Start | None) -> nn.Module:
        """Return the compressed network of ``plan``, before recovery, channels last."""
        if start is None:
            network = realised(self.job.network, self.job.groups, plan)
        else:
            before = kept_of(start.plan)
            network = realised(self.job.network, self.job.groups, start.plan)
            network.load_state_dict(state_tensors(start.state))
            network = narrow(network, self.job.groups, before, kept_of(plan))
            network = remove_blocks(network, removed_blocks(plan))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def finalise(self, plan: Plan, own: State | None, test: Data | None, steps: int) -> Final:
        """Return how a winner does on test, as it was scored and after ``steps`` of fine-tuning.

        ``own`` are the weights that its score depended on, recovery included, or ``None``.
        """
        with preserved_generators():
            seed_everything(0)
            return self._finalise(plan, own, test, steps)

    def _finalise(self, plan: Plan, own: State | None, test: Data | None, steps: int) -> Final:
        network, patterns = self.build(plan, None), layer_patterns(plan)
        test = None if test is None else test.channels_last()
        if own is not None:
            network.load_state_dict(state_tensors(own))
            network.eval()
        else:
            self.recovery.reconstruct(network, kept_of(plan))
            self.pruner.prune(network, plan)
            self.recovery.recalibrate(network)
            changed = self.recovery.reconstructs or patterns
            own = state_arrays(network) if changed else None
        scored = self._searched(network, None)
        final = Final(
            searched=scored.score,
            search_score=scored.in_task_unit,
            test_score=None if test is None else self._score(network, test),
            finetuned_search_score=None,
            finetuned_test_score=None,
            finetuned_state=None,
            state=own,
            notes=self.recovery.notes,
        )
        if not steps:
            return final
        schedule = replace(self.job.short_term, steps=steps)
        fit(network, self.job.train, schedule, seed=0, sparse=patterns)
        return replace(
            final,
            finetuned_search_score=self._score(network, self.job.search),
            finetuned_test_score=None if test is None else self._score(network, test),
            finetuned_state=state_arrays(network),
        )

    def _searched(self, network: nn.Module, needed: float | None) -> Scored:
        """Return what the search scores ``network`` by; see ``Work`` for ``needed``."""
        if self._search_score is None:
            return Scored(self._score(network, self.job.search))
        return self._search_score(self.forward.of(network), needed)

    def _score(self, network: nn.Module, data: Data) -> float:
        return score(self.forward.of(network), data, self.job.score)


@torch.inference_mode()
def score(network: Forward, data: Data, function: Score, size: int = BATCH) -> float:
    """Return the mean score over ``data``, weighted by batch length; NaN for non-finite outputs.

    Batches have ``size`` examples, the last one maybe fewer. ``NotFinite`` for other values.
    """
    total = 0.0
    for batch in data.batches(size):
        outputs = network(*batch.inputs)
        if not bool(torch.isfinite(outputs).all()):
            return float("nan")
        assert batch.labels is not None
        total += as_score(function(outputs, batch.labels)) * len(batch)
    return total / len(data)


def state_arrays(network: nn.Module) -> State:
    """Return every parameter and buffer as a numpy array, by name."""
    return {
        name: t.detach().contiguous().numpy().copy() for name, t in network.state_dict().items()
    }


def state_tensors(state: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Return ``state`` as tensors of their own memory."""
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
