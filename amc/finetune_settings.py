"""The settings of ``amc finetune``, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from amc.config_sections import RecoveryName
from amc.errors import InputError
from amc.invalid import explain
from amc.printable import shown
from amc.strict_yaml import parse_yaml, read_yaml

EPOCHS = 8.0  # where neither steps nor epochs are given
RECOVERY: RecoveryName = "least_squares+batch_norm"  # where a plan names no weights
MAX_STAGES = 100


class FinetuneSettings(BaseModel):
    """All that the weights depend on, beside the plan and the data.

    The learning rate falls from ``learning_rate`` to 0 along a half-cosine, in each stage anew.
    ``weight_decay`` is the L2 penalty on every parameter and ``l1`` the L1 penalty on kernels and
    matrices. ``distill`` is the weight of the dense network's outputs in the loss, softened by
    ``temperature``; the labels have the rest. Every ``check_every`` steps (an epoch where it is
    ``None``) the search split is scored; ``patience`` such checks in a row without a new best end a
    stage, which then keeps its best weights; without ``patience`` it keeps its last ones.

    ``zeros`` of sparse layers stay where they are (``fixed``), or those of N:M layers may move
    while they are trained (``sr_ste``: ``amc.sr_ste``).

    ``stages`` rise to 1: the fraction of the channels that the plan removes which is gone in each
    stage, the least important by ``criterion`` first; layers become sparse in the last one.
    ``recovery`` comes before the first stage;
    ``None`` takes the weights that the plan names where the first stage is the last, else
    ``RECOVERY``. ``data`` is the plan's where it is ``None``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int | None = Field(None, ge=1, le=100_000_000)
    epochs: float | None = Field(None, gt=0, le=100_000)
    batch_size: int = Field(64, ge=2, le=65536)
    learning_rate: float = Field(0.02, gt=0)
    weight_decay: float = Field(5e-4, ge=0, le=1000)
    l1: float = Field(0.0, ge=0, le=1000)
    distill: float = Field(0.0, ge=0, le=1)
    temperature: float = Field(4.0, gt=0, le=1000)
    patience: int | None = Field(None, ge=1, le=100_000_000)
    check_every: int | None = Field(None, ge=1, le=100_000_000)
    augment: bool = False
    zeros: Literal["fixed", "sr_ste"] = "fixed"
    stages: tuple[float, ...] = Field((1.0,), max_length=MAX_STAGES)
    criterion: str = Field("magnitude_l1", min_length=1, max_length=200)
    recovery: RecoveryName | None = None
    data: Literal["pack", "full"] | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    threads: int = Field(1, ge=1, le=1024)

    @field_validator("stages", mode="before")
    @classmethod
    def _counted_stages(cls, value: Any) -> Any:
        """Accept YAML text, and a number of stages with equal steps between them."""
        if isinstance(value, str):
            value = parse_yaml(value, f"stages {shown(value)}")
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= MAX_STAGES:
                raise ValueError(f"stages {value} must be from 1 to {MAX_STAGES}; change it")
            return tuple((i + 1) / value for i in range(value))
        return value

    @field_validator("stages")
    @classmethod
    def _rising_stages(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(a < b for a, b in pairwise(value))
        if not value or len(value) > MAX_STAGES or not rising or value[0] <= 0 or value[-1] != 1:
            raise ValueError(
                f"stages {shown(list(value))} must rise from above 0 to 1, such as [0.5, 0.8, "
                "1]; they are fractions of the channels that the plan removes"
            )
        return value

    @model_validator(mode="after")
    def _one_length(self) -> FinetuneSettings:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps {self.steps} and epochs {self.epochs:g} exclude each other; leave one out"
            )
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with; options newer than it only where they are given."""
        values = self.model_dump(mode="json")
        if self.zeros == "fixed":
            del values["zeros"]
        return values

    def stage_steps(self, examples: int) -> list[int]:
        """Return the steps of every stage, equal but for a remainder that the last one gets.

        Raises ``InputError`` where ``examples`` are fewer than a batch, or steps than stages.
        """
        if self.batch_size > examples:
            raise InputError(
                f"batch_size {self.batch_size} is above the {examples} training examples; lower it"
            )
        steps = self.steps or math.ceil((self.epochs or EPOCHS) * self.epoch_steps(examples))
        each, rest = divmod(steps, len(self.stages))
        if not each:
            raise InputError(
                f"steps {steps} are fewer than the {len(self.stages)} stages; allow more steps, or "
                "fewer stages"
            )
        return [each] * (len(self.stages) - 1) + [each + rest]

    def epoch_steps(self, examples: int) -> int:
        """Return how many whole batches ``examples`` make."""
        return max(1, examples // self.batch_size)


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file, checked; ``InputError`` names each refused one."""
    given = read_yaml(path, "recipe")
    parse_settings(given)
    return given


def parse_settings(given: Mapping[str, Any]) -> FinetuneSettings:
    """Return the checked settings; ``InputError`` names each refused one."""
    try:
        return FinetuneSettings(**given)
    except ValidationError as error:
        raise InputError(explain(error, FinetuneSettings)) from error
