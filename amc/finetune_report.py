"""``report.json`` of a fine-tuning, checked where it is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amc.errors import InputError
from amc.invalid import explain
from amc.printable import shown
from amc.strict_json import MB, Limits, read_json

LIMITS = Limits(size=50 * MB, values=2_000_000, depth=12)
Count = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(max_length=10_000)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of a report, or of a checkpoint's facts: the keys that are used; others stay."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class Identity(Part):
    """What a fine-tuning depended on: digests of plan and data, and its settings."""

    plan: Sha256
    data: Sha256
    settings: dict[Text, Any]


class _Accuracy(Part):
    weights: Text
    search_accuracy: float | None
    test_accuracy: float | None


class _Stage(Part):
    level: float
    steps: Count
    planned_steps: Count
    kept_step: Count


class _Observed(Part):
    train_s: float


class _Report(Part):
    task: Text
    metric: Text
    accuracies: list[_Accuracy] = Field(max_length=100)
    train_images: Count
    search_images: Count
    test_images: Count
    stages: list[_Stage] = Field(max_length=1_000)
    notes: list[Text] = Field(max_length=10_000)
    identity: Identity
    observed: _Observed


def read_report(path: Path) -> dict[str, Any]:
    """Return the report as it stands in the file; ``InputError`` says what is wrong with it."""
    value: Any = read_json(path, "report", LIMITS)
    remedy = "fine-tune the plan again, into another folder"
    try:
        report = _Report.model_validate(value)
    except ValidationError as error:
        raise InputError(f"report {str(path)!r}: {explain(error)}; {remedy}") from None
    named = {row.weights for row in report.accuracies}
    if missing := {"dense", "finetuned"} - named:
        lacks, found = (
            " and ".join(sorted(missing)),
            ", ".join(shown(r.weights) for r in report.accuracies[:9]) or "[]",
        )
        raise InputError(
            f"report {str(path)!r}: accuracies have the weights {found}, but none of {lacks}; "
            f"{remedy}"
        )
    return dict(value)


def accuracies_of(report: dict[str, Any], path: Path, *wanted: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a report's accuracies by name; ``InputError`` where one is not there."""
    rows = {row["weights"]: row for row in report["accuracies"]}
    for name in wanted:
        if name not in rows:
            raise InputError(
                f"report {str(path)!r} has no accuracies of {name}, as its plan asks for; "
                "fine-tune the plan again"
            )
    return rows
