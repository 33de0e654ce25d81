"""The sections of a search's configuration, and the words that its keys take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from amc.objective import AccuracyGuaranteed, AccuracyWithinBudget, Objective, ResourceConstrained

if TYPE_CHECKING:
    from amc.racing import Racing
    from amc.training import Schedule

ScoreName = Literal["task", "cross_entropy", "agreement"]  # ``amc.scores`` says what each is


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text on one line; leave control characters out")
    return text


Line = AfterValidator(_one_line)
Name = Annotated[str, Field(min_length=1, max_length=200), Line]
PathText = Annotated[str, Field(min_length=1, max_length=4096), Line]
TaskName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.:-]+$")]
# A part of the names of folders, so no path.
AgentName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
# ``amc.recovery`` says what each does. Reconstruction is of the dense network's weights: it comes
# before fine-tuning, and leaves out plans that start from weights which fine-tuning left.
RecoveryName = Literal[
    "none",
    "batch_norm",
    "least_squares",
    "least_squares+batch_norm",
    "progressive",
    "progressive+batch_norm",
]


class Section(BaseModel):
    """A part of a configuration, which has no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SitesConfig(Section):
    """Which sites there are, and which widths they may take.

    ``round_to: kernel`` asks the dense kernel of this machine for the block of channels that it
    works on at once, and is that number from then on: a run keeps it wherever it is gone on with.
    """

    exclude: tuple[Name, ...] = Field((), max_length=1000)
    min_keep_ratio: float = Field(0.2, gt=0, le=1)
    round_to: int = Field(4, ge=1, le=1024)
    criterion: Name = "magnitude_l1"
    # Of spaces that make weights sparse; null: the space's own.
    weight_criterion: Name = "magnitude_l1"
    patterns: tuple[Name, ...] | None = Field(None, min_length=1, max_length=100)
    sparsities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(
        None, min_length=1, max_length=100
    )

    def given(self) -> dict[str, Any]:
        """Return the options that are not as they are by default, by name."""
        fields = type(self).model_fields
        return {k: getattr(self, k) for k in fields if getattr(self, k) != fields[k].default}

    @field_validator("round_to", mode="before")
    @classmethod
    def _own_of_the_kernel(cls, value: Any) -> Any:
        if value != "kernel":
            return value
        from amc.kernels.dense import Dense

        return Dense.channel_block()


class LatencyConfig(Section):
    """Whose latency: ``auto`` is this machine's, else a shipped target's name or a table's path."""

    target: PathText = "auto"
    batch_size: int = Field(32, ge=1, le=65536)
    threads: int = Field(1, ge=1, le=1024)


class ObjectiveConfig(Section):
    """What agents are rewarded for; ``amc.objective`` says what each kind is and needs."""

    kind: Literal["resource_constrained", "accuracy_guaranteed", "accuracy_within_budget"] = (
        "resource_constrained"
    )
    # Of accuracy_guaranteed alone; null: the budget's key.
    resource: Literal["predicted_latency", "macs", "params", "weight_bytes"] | None = None
    # Of accuracy_within_budget alone; null: -1.
    penalty: float | None = Field(None, le=0)

    @model_validator(mode="after")
    def _only_of_its_kind(self) -> ObjectiveConfig:
        for option, kind in (
            ("resource", "accuracy_guaranteed"),
            ("penalty", "accuracy_within_budget"),
        ):
            if getattr(self, option) is not None and self.kind != kind:
                raise ValueError(
                    f"objective.{option} belongs to kind {kind!r}, but the kind is {self.kind!r}; "
                    "leave it out or change the kind"
                )
        return self

    def build(self) -> Objective:
        """Return the objective itself."""
        if self.kind == "accuracy_guaranteed":
            return AccuracyGuaranteed(self.resource)
        if self.kind == "accuracy_within_budget":
            return AccuracyWithinBudget(-1.0 if self.penalty is None else self.penalty)
        return ResourceConstrained()


class RacingConfig(Section):
    """Whether plans that have lost are scored to the end; ``amc.racing`` says how it is known."""

    confidence: float = Field(0.99, ge=0.5, lt=1)
    seed: int = Field(0, ge=0, lt=2**31)

    def build(self) -> Racing:
        """Return the test itself."""
        from amc.racing import Racing

        return Racing(self.confidence, self.seed)


class ShortTermConfig(Section):
    """How NetAdapt's proposals are fine-tuned before their scores, and every winner at the end.

    ``amc.training.Schedule`` says what each key is; the numbers of steps stand elsewhere.
    """

    learning_rate: float = Field(0.02, gt=0)
    batch_size: int = Field(64, ge=1, le=65536)
    weight_decay: float = Field(5e-4, ge=0, le=1000)
    nesterov: bool = True
    cosine: bool = True

    def build(self) -> Schedule:
        """Return the schedule itself, of no steps yet."""
        from amc.training import Schedule

        return Schedule(steps=0, **self.model_dump())
