"""``amc finetune``: train what a plan leaves of a network, at once or while it is pruned by stages.

Exact at any interruption: a checkpoint a check, from which the same weights come out bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc.compress import Kept, compress, narrow, remove_blocks, removed_blocks
from amc.config_sections import RecoveryName
from amc.coupling import ChannelGroup
from amc.data import Data
from amc.errors import InputError
from amc.finetune_checkpoint import Check, Checkpoint, Progress, StageEnd, write_checkpoint
from amc.finetune_settings import RECOVERY, FinetuneSettings
from amc.kernels.patterns import KEEP
from amc.plan import digest
from amc.plan_file import PlanFile
from amc.plan_scores import Scorer, scorer, searched
from amc.planned import build
from amc.printable import printable
from amc.prune_stages import Stage, removal_orders, stages_of
from amc.pruning import Pruner
from amc.recovery import Recovery
from amc.reporting import Handle, Reporter
from amc.search_task import preserved_generators, seed_everything
from amc.sparsify import layer_patterns
from amc.sr_ste import MovingZeros
from amc.task import LoadedTask
from amc.training import Distillation, Schedule, Trainer

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class FinetuneJob:
    """All that a fine-tuning depends on. ``folder`` has the weights that ``plan`` names.

    ``importance`` is a score a channel of every site; ``groups`` are what the sites decide on.
    """

    plan: PlanFile
    folder: Path
    task: LoadedTask
    groups: Sequence[ChannelGroup]
    importance: Mapping[str, Tensor]
    settings: FinetuneSettings

    @property
    def search(self) -> Data:
        """The examples of the search split that the plan was scored on."""
        return searched(self.plan, self.task)

    @cached_property
    def score(self) -> Scorer:
        """What scores networks just as ``amc evaluate`` will score the one that comes out."""
        return scorer(self.plan.evaluation, self.task, self.groups)

    @property
    def calibration(self) -> Data:
        """The examples that recoveries see."""
        return self.task.train[: self.plan.evaluation.calibration_images]

    @property
    def recovery(self) -> RecoveryName | None:
        """What precedes the first stage; ``None``: it starts from the weights of the plan."""
        settings = self.settings
        if settings.recovery is None and self.plan.weights is not None:
            return None if len(settings.stages) == 1 else RECOVERY
        return settings.recovery or RECOVERY

    def orders(self) -> dict[str, tuple[int, ...]]:
        """Return each site's channels, the last to be removed first."""
        return removal_orders(self.plan.plan, self.importance)

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages; ``InputError`` where steps or examples are too few."""
        steps = self.settings.stage_steps(len(self.task.train))
        return stages_of(self.plan.plan, self.orders(), self.settings.stages, steps)

    def recovered(self, name: RecoveryName) -> Recovery:
        """Return the recovery ``name`` of the task's network, not yet prepared."""
        return Recovery(
            name,
            self.task.network,
            self.groups,
            self.orders(),
            self.calibration,
            self.plan.evaluation.batch_norm_images,
        )

    def compressed(self, kept: Mapping[str, Sequence[int]]) -> nn.Module:
        """Return the dense network compressed to ``kept``, laid out as all that is scored."""
        network = compress(self.task.network, self.groups, kept)
        network = remove_blocks(network, removed_blocks(self.plan.plan))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval()

    @cached_property
    def pruner(self) -> Pruner:
        """What gives a compressed network the zeros of the plan's patterns."""
        criterion = self.plan.evaluation.weight_criterion
        return Pruner(criterion, self.task.network, self.groups, self.calibration)

    def recover(self, recovery: Recovery, kept: Kept, *, sparse: bool = True) -> nn.Module:
        """Return the dense network compressed to ``kept``, recovered, with the plan's patterns.

        Those are of the plan's own channels: ``sparse`` only where these are what is ``kept``.
        """
        network = self.compressed(kept)
        recovery.reconstruct(network, kept)
        if sparse:
            self.pruner.prune(network, self.plan.plan)
        recovery.recalibrate(network)
        return network

    def from_plan(self) -> nn.Module:
        """Return the network with the weights that the plan names."""
        return build(self.plan, self.folder, self.task)


class FineTuning:
    """One fine-tuning, from the start or from a checkpoint."""

    def __init__(
        self,
        job: FinetuneJob,
        out: Path,
        identity: Mapping[str, Any],
        saved: Checkpoint | None,
        reporter: Reporter,
    ) -> None:
        self.progress = Progress() if saved is None else saved.progress
        self.progress.resumed += saved is not None
        self._job, self._out, self._identity, self._saved = job, out, identity, saved
        self._reporter = reporter
        self._stages = job.stages()
        settings = job.settings
        if self.progress.stage >= len(self._stages):
            raise InputError(
                f"checkpoint {str(out / CHECKPOINT)!r} stands at stage {self.progress.stage + 1} "
                f"of {len(self._stages)}; start again in another folder"
            )
        epoch = settings.epoch_steps(len(job.task.train))
        self._every = settings.check_every or epoch
        self._distillation: Distillation | None = None
        self._clock = 0.0

    def run(self) -> nn.Module:
        """Return the trained network of the last stage, in evaluation mode."""
        with preserved_generators():
            seed_everything(self._job.settings.seed)
            self._prepare()
            bar = self._reporter.task("fine-tuning", sum(s.steps for s in self._stages))
            with bar:
                ended = sum(s.steps for s in self._stages[: self.progress.stage])
                bar.advance(ended + self.progress.step)
                network: nn.Module | None = None
                for stage in self._stages[self.progress.stage :]:
                    network = self._stage(stage, network, bar)
        assert network is not None
        return network

    def _prepare(self) -> None:
        settings, task = self._job.settings, self._job.task
        self._clock = time.perf_counter()
        if settings.distill:
            self._distillation = Distillation.of(
                task.network, task.train, settings.distill, settings.temperature, settings.augment
            )

    def _stage(self, stage: Stage, previous: nn.Module | None, bar: Handle) -> nn.Module:
        """Train one stage from its beginning, or from what was saved within it."""
        progress = self.progress
        saved, self._saved = self._saved, None
        network = (
            self._start(stage, previous) if saved is None else self._job.compressed(stage.kept)
        )
        trainer = self._trainer(network, stage)
        if saved is not None:
            self._go_on(saved, trainer)
        self._train(stage, trainer, bar)
        trainer.settle()
        if progress.best:
            network.load_state_dict(progress.best)
        network.eval()
        bar.advance(stage.steps - progress.step)
        kept_step = progress.best_step if progress.best else progress.step
        progress.next_stage(StageEnd(progress.step, kept_step, progress.step < stage.steps))
        return network

    def _go_on(self, saved: Checkpoint, trainer: Trainer) -> None:
        """Put the trainer where ``saved`` left it; ``InputError`` where that is of another."""
        names = trainer.network.state_dict().keys()
        try:
            trainer.load(saved.trainer, self.progress.step)
            torch.set_rng_state(saved.torch_generator)
            if saved.progress.best and saved.progress.best.keys() != names:
                raise ValueError("its best weights are of another network")
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            why = printable(" ".join(str(error).split()), 300)
            raise InputError(
                f"checkpoint {str(self._out / CHECKPOINT)!r} is not of this fine-tuning ({why}); "
                "start again in another folder"
            ) from None

    def _start(self, stage: Stage, previous: nn.Module | None) -> nn.Module:
        """Return the network that a stage begins with."""
        job, index = self._job, self.progress.stage
        if previous is not None:
            network = job.compressed(stage.kept)
            before = self._stages[index - 1].kept
            narrower = narrow(previous, job.groups, before, stage.kept)
            network.load_state_dict(narrower.state_dict())
            if stage.level == 1:
                job.pruner.prune(network, job.plan.plan)
            if "batch_norm" in (job.recovery or ""):
                job.recovered("batch_norm").recalibrate(network)
            return network
        if job.recovery is None:
            return job.from_plan()
        recovery = job.recovered(job.recovery)
        network = job.recover(recovery, stage.kept, sparse=stage.level == 1)
        self.progress.notes += recovery.notes
        return network

    def _trainer(self, network: nn.Module, stage: Stage) -> Trainer:
        settings = self._job.settings
        schedule = Schedule(
            steps=stage.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            augment=settings.augment,
        )
        seed = int(digest([settings.seed, self.progress.stage])[:8], 16)
        layers = layer_patterns(self._job.plan.plan) if stage.level == 1 else {}
        patterns = {name: how.pattern for name, how in layers.items()}
        moving = {n: p for n, p in patterns.items() if p in KEEP and settings.zeros == "sr_ste"}
        return Trainer(
            network,
            self._job.task.train,
            schedule,
            seed,
            self._distillation,
            settings.l1,
            sparse=patterns.keys() - moving.keys(),
            moving=MovingZeros(network, moving) if moving else None,
        )

    def _train(self, stage: Stage, trainer: Trainer, bar: Handle) -> None:
        """Take the steps of a stage, as many as patience allows, with a check now and then."""
        progress, patience = self.progress, self._job.settings.patience
        if not any(check.stage == progress.stage for check in progress.checks):
            self._check(trainer, None)
        losses: list[float] = []
        while progress.step < stage.steps and (patience is None or progress.stale < patience):
            losses.append(float(trainer.step()))
            progress.step = trainer.steps_done
            if not math.isfinite(losses[-1]):
                raise self._diverged("the loss")
            if progress.step % self._every == 0 or progress.step == stage.steps:
                self._check(trainer, sum(losses) / len(losses))
                losses = []
            bar.advance(1, self._note())

    def _check(self, trainer: Trainer, loss: float | None) -> None:
        """Score the search split, keep the weights if they are the best so far, save it all."""
        progress, network = self.progress, trainer.network
        network.eval()
        with trainer.as_pruned():
            value = self._job.score(network, self._job.search)
            better = progress.best_score is None or value > progress.best_score
            if better and self._job.settings.patience is not None:
                state = network.state_dict()
                progress.best = {n: t.detach().contiguous().clone() for n, t in state.items()}
        network.train()
        if not math.isfinite(value):
            raise self._diverged("the network's output")
        progress.checks.append(Check(progress.stage, progress.step, loss, value))
        if better:
            progress.best_score, progress.best_step, progress.stale = value, progress.step, 0
        else:
            progress.stale += 1
        now = time.perf_counter()
        progress.train_s, self._clock = progress.train_s + now - self._clock, now
        write_checkpoint(self._out / CHECKPOINT, self._identity, progress, trainer.state())

    def _note(self) -> str:
        last = self.progress.checks[-1]
        loss = "" if last.loss is None else f"loss {last.loss:.3f}, "
        return f"stage {last.stage + 1}, {loss}search {last.search_accuracy:.4f}"

    def _diverged(self, what: str) -> InputError:
        progress = self.progress
        return InputError(
            f"learning_rate {self._job.settings.learning_rate:g} made {what} infinite or NaN at "
            f"step {progress.step} of stage {progress.stage + 1}; lower it, in another folder"
        )
