"""The exported plan: versioned JSON that others can read, check and apply.

``amc/schema/plan-v1.json`` is its JSON Schema, written by ``python -m amc.plan_file``.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from amc.config_sections import RecoveryName
from amc.errors import InputError
from amc.files import write_text
from amc.invalid import explain
from amc.plan import Plan
from amc.strict_json import MB, Limits, read_json

LIMITS = Limits(size=50 * MB, values=2_000_000, depth=8, text=2_000)
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]  # the largest that every reader of JSON keeps
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Text = Annotated[str, Field(max_length=1_000)]
Site = Annotated[str, Field(min_length=1, max_length=500)]
PatternName = Literal["dense", "2:4", "1:4", "csr", "csc", "4x1", "vector", "kernel"]
KernelName = Literal["dense", "nm", "csr", "csc", "block"]
# As amc.kernels.patterns.KERNEL_OF, which takes a second to import; a test holds them together.
KERNEL_NAMES: dict[str, str] = {
    "dense": "dense",
    "2:4": "nm",
    "1:4": "nm",
    "csr": "csr",
    "csc": "csc",
    "4x1": "block",
    "vector": "csr",
    "kernel": "csr",
}
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ChoicePart(_Part):
    """What happens at one site; see ``amc.plan.Choice``."""

    keep_ratio: float = Field(ge=0, le=1, description="of a removed block 0")
    kept: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1_000_000)] | None = Field(
        description="ascending channel indices; of units, beside grouped convolutions; null: the "
        "site decides on a layer's weights, of channels that other sites keep",
    )
    pattern: PatternName = "dense"
    sparsity: float = Field(
        0.0, ge=0, lt=1, description="fraction of zeros in the weights; of the dense pattern 0"
    )
    kernel: KernelName = Field("dense", description="what the costs are of; dense can run any")

    @model_validator(mode="after")
    def _consistent(self) -> ChoicePart:
        kept = self.kept
        if kept is not None and any(a >= b for a, b in itertools.pairwise(kept)):
            raise ValueError("kept must list ascending channel indices, each once; sort them")
        if kept is not None and self.pattern != "dense":
            raise ValueError("pattern must be dense where channels are kept; weights have a site")
        if kept is None and self.keep_ratio not in ({0, 1} if self.pattern == "dense" else {1}):
            raise ValueError(
                "keep_ratio must be 1 where kept is null, or 0 for a removed block; change it"
            )
        if kept is not None and not self.keep_ratio:
            raise ValueError("keep_ratio must be above 0 where channels are kept; raise it")
        if (self.pattern == "dense") != (self.sparsity == 0):
            raise ValueError(
                f"sparsity {self.sparsity:g} contradicts pattern {self.pattern!r}; change either"
            )
        own = {"2:4": 0.5, "1:4": 0.75}.get(self.pattern, self.sparsity)
        if self.sparsity != own:
            raise ValueError(f"sparsity of pattern {self.pattern!r} must be {own}; change it")
        if self.kernel not in ("dense", KERNEL_NAMES[self.pattern]):
            raise ValueError(
                f"kernel {self.kernel!r} does not run pattern {self.pattern!r}; take 'dense'"
            )
        return self


class FilePart(_Part):
    """A file beside the plan."""

    file: FileName
    sha256: Sha256 = Field(description="digest of names, types, shapes and values of the tensors")


class CostPart(_Part):
    """Predicted costs: latency of one batch; MACs of one example."""

    latency_s: Seconds
    macs: Count
    params: Count
    weight_bytes: Count


class MeasuredPart(_Part):
    """Measured on the device of the table: seconds of one batch, divided by the clock factor."""

    measured_latency_s: Seconds
    measured_raw_s: Seconds
    clock_factor: float = Field(gt=0)
    interval: float = Field(ge=0, description="half the 95% interval of the median, relative")
    repeats: Count
    clock: Literal["wall", "cpu"] = Field(description="cpu: time on the processor")
    noisy: bool
    dense_measured_latency_s: Seconds


class CostsPart(_Part):
    """Predicted from the table, and measured; never mixed."""

    batch_size: int = Field(ge=1, le=65536)
    threads: int = Field(ge=1, le=1024)
    budget: dict[Text, float] = Field(
        max_length=10, description="the budget's key and its fraction of dense"
    )
    predicted: CostPart
    predicted_dense: CostPart
    measured: MeasuredPart | None = None


class AccuracyPart(_Part):
    """Scores as fractions; ``finetuned_*`` are those after the short fine-tuning."""

    metric: Text
    search: float
    search_images: Count
    test: float | None
    test_images: Count
    dense_search: float
    dense_test: float | None
    finetune_steps: Count
    finetuned_search: float | None
    finetuned_test: float | None


class EvaluationPart(_Part):
    """What a score depends on beside the plan and the weights."""

    data: Literal["pack", "full"]
    search_images: int | None = Field(ge=1, le=2**53)
    calibration_images: int = Field(ge=1, le=2**53)
    batch_norm_images: int | None = Field(
        None, ge=1, le=2**53, description="calibration images that statistics come from; null: all"
    )
    fold_batch_norm: bool = Field(False, description="whether scores are of a folded network")
    fast_scoring: bool = Field(
        False, description="whether scores are of amc.scoring's forward pass"
    )
    recovery: RecoveryName
    weight_criterion: str = Field(
        "magnitude_l1", max_length=200, description="what chose the zeros of sparse layers"
    )


class ProvenancePart(_Part):
    """Where the plan comes from."""

    agent: Text
    seed: int = Field(ge=0, lt=2**31)
    evaluations: Count
    config_digest: Sha256
    table_digest: Sha256
    device: Text
    versions: dict[Text, Text] = Field(max_length=100)


class PlanFile(_Part):
    """A plan for one trained network, and what is known of it."""

    schema_version: Literal[1, 2] = Field(description="2: some layers are sparse")
    task: Text
    network_digest: Sha256
    weights: FilePart | None = Field(description="weights that the score depended on, or null")
    finetuned: FilePart | None = Field(description="weights after the short fine-tuning, or null")
    choices: dict[Site, ChoicePart] = Field(min_length=1, max_length=100_000)
    costs: CostsPart
    accuracy: AccuracyPart
    evaluation: EvaluationPart
    provenance: ProvenancePart

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return Plan.from_json({site: dict(choice) for site, choice in self.choices.items()})

    def text(self) -> str:
        """Return the file's content."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


def weights_beside(plan: Path, role: str) -> Path:
    """Return where a plan's weights lie beside it, under a name that a plan may hold."""
    stem = re.sub("[^A-Za-z0-9_-]", "_", plan.stem)
    return plan.with_name(f"{stem}.{role}.safetensors")


def read_plan(path: Path) -> PlanFile:
    """Return the checked content of a plan file; ``InputError`` says what is wrong with it."""
    value = read_json(path, "plan", LIMITS)
    if not isinstance(value, dict):
        raise InputError(f"plan {str(path)!r} must be a JSON object; name one that amc wrote")
    try:
        return PlanFile.model_validate(value)
    except ValidationError as error:
        raise InputError(f"plan {str(path)!r}: {explain(error, PlanFile)}") from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a plan file."""
    return PlanFile.model_json_schema()


if __name__ == "__main__":
    target = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "schema/plan-v1.json"
    )
    write_text(target, json.dumps(schema(), indent=2) + "\n")
