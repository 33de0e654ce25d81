"""A fine-tuning that stopped half-way, as one safetensors file: tensors, and facts as JSON.

Written anew through a rename after every check, so that it is whole whenever the process ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from amc.errors import InputError
from amc.files import write_bytes
from amc.finetune_report import Count, Identity, Part, Text
from amc.invalid import explain
from amc.printable import printable
from amc.strict_json import parse_json

VERSION = 1
FACTS = "amc.finetune"


@dataclass(frozen=True)
class Check:
    """The search split after ``step`` steps of a stage; ``loss`` is the mean since the last one."""

    stage: int
    step: int
    loss: float | None
    search_accuracy: float


@dataclass(frozen=True)
class StageEnd:
    """A finished stage: its steps, and after which of them the weights that it kept were left."""

    steps: int
    kept_step: int
    stopped_early: bool


@dataclass
class Progress:
    """How far a fine-tuning has come.

    ``best`` are the weights of the best check of the stage so far, where they are kept, and
    ``stale`` the checks since. ``train_s`` counts the seconds up to the last check of all processes
    that took part; ``resumed`` those of them that went on from a checkpoint and reached another.
    """

    stage: int = 0
    step: int = 0
    checks: list[Check] = field(default_factory=list)
    ends: list[StageEnd] = field(default_factory=list)
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0
    train_s: float = 0.0
    resumed: int = 0
    notes: list[str] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def next_stage(self, end: StageEnd) -> None:
        """Note the end of a stage, and start the next one."""
        self.ends.append(end)
        self.stage, self.step = self.stage + 1, 0
        self.best_score, self.best_step, self.stale, self.best = None, 0, 0, {}


class _Check(Part):
    model_config = ConfigDict(extra="forbid")

    stage: Count
    step: Count
    loss: float | None
    search_accuracy: float


class _StageEnd(Part):
    model_config = ConfigDict(extra="forbid")

    steps: Count
    kept_step: Count
    stopped_early: bool


class _Progress(Part):
    model_config = ConfigDict(extra="forbid")

    stage: Count
    step: Count
    checks: list[_Check]
    ends: list[_StageEnd]
    best_score: float | None
    best_step: Count
    stale: Count
    train_s: float
    resumed: Count
    notes: list[Text]
    best: dict[str, Any] = Field(max_length=0)  # they are tensors of the file


class _Facts(Part):
    version: Literal[1]
    identity: Identity
    progress: _Progress


def write_checkpoint(
    path: Path, identity: Mapping[str, Any], progress: Progress, trainer: Mapping[str, Tensor]
) -> None:
    """Write ``path``: the progress, a trainer's state, torch's global generator, the identity."""
    tensors = {f"trainer.{name}": t for name, t in trainer.items()}
    tensors |= {f"best.{name}": t for name, t in progress.best.items()}
    tensors["torch_generator"] = torch.get_rng_state()
    facts = asdict(replace(progress, best={}))
    text = json.dumps({"version": VERSION, "identity": dict(identity), "progress": facts})
    write_bytes(path, save(tensors, {FACTS: text}))


@dataclass(frozen=True)
class Checkpoint:
    """What ``write_checkpoint`` wrote."""

    identity: dict[str, Any]
    progress: Progress
    trainer: dict[str, Tensor]
    torch_generator: Tensor


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint; ``InputError`` where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})[FACTS]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = _Facts.model_validate(parse_json(text.encode(), "its facts"))
        raw = facts.progress.model_dump()
        progress = Progress(
            **{
                **raw,
                "checks": [Check(**check) for check in raw["checks"]],
                "ends": [StageEnd(**end) for end in raw["ends"]],
                "best": _part(tensors, "best."),
            }
        )
        return Checkpoint(
            facts.identity.model_dump(),
            progress,
            _part(tensors, "trainer."),
            tensors["torch_generator"],
        )
    except Exception as error:  # safetensors raises a type of its own that it does not export
        why = explain(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}: "
            f"{printable(why, 500)}); start again in another folder"
        ) from None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
