"""The rows of ``summary.json``, checked: whoever reads a run may not have written it.

Rows keep whatever other keys they have; older releases wrote fewer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from amc.config_sections import AgentName
from amc.errors import InputError
from amc.invalid import explain
from amc.strict_json import MB, Limits, read_json

LIMITS = Limits(size=20 * MB, values=500_000, depth=12)
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e18, le=1e18)]
Positive = Annotated[float, Field(ge=0, le=1e18)]
Text = Annotated[str, Field(max_length=10_000)]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    test_accuracy: Number | None = None
    macs: Count | None = None
    params: Count | None = None
    weight_bytes: Count | None = None
    measured_latency_s: Positive | None = None


class DenseRow(_Facts):
    """The ``dense`` object of a row: the unpruned network."""

    search_accuracy: Number | None = None
    predicted_latency_s: Positive | None = None


class SummaryRow(_Facts):
    """What one search reached; without a plan what is of a plan is null."""

    agent: AgentName
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    evaluations: Count
    search_accuracy: Number | None
    recovery: Text | None = None
    search_images: Count | None = None
    test_images: Count | None = None
    batch_size: Count | None = None
    finetune_steps: Count | None = None
    finetuned_search_accuracy: Number | None = None
    finetuned_test_accuracy: Number | None = None
    predicted_latency_s: Positive | None = None
    speedup: Positive | None = None
    backend: Text | None = None
    noisy: bool | None = None
    failure: Text | None = None
    plan: Text | None = None
    dense: DenseRow | None = None


_ROWS = TypeAdapter(Annotated[list[SummaryRow], Field(min_length=1, max_length=100_000)])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the file, ``plan`` being where it lies now; ``InputError`` else."""
    rows: Any = read_json(path, "summary", LIMITS)
    try:
        checked = _ROWS.validate_python(rows)
    except ValidationError as error:
        raise InputError(
            f"summary {str(path)!r} does not hold results: {explain(error)}; write it again with: "
            f"amc resume {path.parent}"
        ) from None
    plans = (path.parent / f"{one.agent}-s{one.seed}" / "plan.json" for one in checked)
    return [
        {**row, "plan": None if one.plan is None else str(plan)}
        for row, one, plan in zip(rows, checked, plans, strict=True)
    ]
