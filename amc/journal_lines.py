"""One line of a journal: from an evaluation to JSON with a checksum, and back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any

from amc.cost import Cost
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.plan import Plan
from amc.printable import shown
from amc.strict_json import MB, Limits, parse_json

SCHEMA_VERSION = 2  # 1 had no checksums

LIMITS = Limits(size=16 * MB, depth=16, remedy="restore it")
SHA256 = re.compile("[0-9a-f]{64}")
# What a record has beside ``sequence`` and ``plan``, and of which type.
TYPES: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "parent": (str, NoneType),
    "finetune": (int, NoneType),
    "measure": bool,
    "score": (int, float),
    "cost": dict,
    "reward": (int, float),
    "feasible": bool,
    "reason": str,
    "weights_sha256": (str, NoneType),
    "cached": bool,
    "observed": dict,
}
OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "seed": int,
    "task_score": (int, float),
    "stopped_after": int,
}


def as_line(value: Mapping[str, Any]) -> str:
    """Return ``value``, which has ``observed``, as one line; its checksum is put there."""
    observed = {key: seen for key, seen in value["observed"].items() if key != "checksum"}
    checksum = _checksum({**value, "observed": observed})
    return _dumps({**value, "observed": {**observed, "checksum": checksum}}) + "\n"


def read_line(text: bytes) -> dict[str, Any]:
    """Return the object on a line; ``ValueError`` where it is none, or not as it was written."""
    try:
        value = parse_json(text, "it", LIMITS)
    except InputError as error:
        raise ValueError(str(error).removesuffix(f"; {LIMITS.remedy}")) from None
    if not isinstance(value, dict) or not isinstance(value.get("observed", {}), dict):
        raise ValueError("no JSON object of a journal")
    observed = dict(value.get("observed", {}))
    checksum = observed.pop("checksum", None)
    if checksum is not None and checksum != _checksum({**value, "observed": observed}):
        raise ValueError("its checksum is not that of its content")
    return value


def record_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as a record without its number."""
    request = evaluation.request
    some = {"task_score": evaluation.task_score, "stopped_after": evaluation.stopped_after}
    return {
        "key": evaluation.key,
        "plan": request.plan.as_json(),
        "parent": request.parent,
        "finetune": request.finetune,
        "measure": request.measure,
        **({"seed": request.seed} if request.seed else {}),
        "score": evaluation.score,
        "cost": evaluation.cost.as_json(),
        "reward": evaluation.reward,
        "feasible": evaluation.feasible,
        "reason": evaluation.reason,
        "weights_sha256": evaluation.weights_sha256,
        "cached": evaluation.cached,
        **{key: value for key, value in some.items() if value is not None},
        "observed": evaluation.observed,
    }


def record_of(value: Mapping[str, Any], sequence: int) -> Evaluation:
    """Return the evaluation of a record; ``ValueError`` where it is none, or not that number."""
    if value.get("sequence") != sequence:
        raise ValueError(f"its sequence is {shown(value.get('sequence'))}, not {sequence}")
    for key, kind in {**TYPES, **{k: t for k, t in OPTIONAL.items() if k in value}}.items():
        if key not in value or not _is(value[key], kind):
            raise ValueError(f"{key} is {shown(value.get(key))}")
    if value["weights_sha256"] is not None and not SHA256.fullmatch(value["weights_sha256"]):
        raise ValueError("weights_sha256 is none")  # it is the name of a file
    observed = {key: seen for key, seen in value["observed"].items() if key != "checksum"}
    return Evaluation(
        key=value["key"],
        request=Request(
            _plan(value.get("plan")),
            value["parent"],
            value["finetune"],
            value["measure"],
            value.get("seed", 0),
        ),
        score=value["score"],
        cost=_cost(value["cost"]),
        reward=value["reward"],
        feasible=value["feasible"],
        reason=value["reason"],
        weights_sha256=value["weights_sha256"],
        cached=value["cached"],
        observed=observed,
        task_score=value.get("task_score"),
        stopped_after=value.get("stopped_after"),
    )


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) and not (isinstance(value, float) and not math.isfinite(value))


def _plan(value: Any) -> Plan:
    if not isinstance(value, dict) or not all(map(_is_choice, value.values())):
        raise ValueError("plan is none")
    return Plan.from_json(value)


def _is_choice(value: Any) -> bool:
    kept = value.get("kept") if isinstance(value, dict) else 0
    return (
        (kept is None or (isinstance(kept, list) and all(_is(k, int) for k in kept)))
        and value.keys() == {"keep_ratio", "kept", "pattern", "sparsity", "kernel"}
        and all(_is(value[key], (int, float)) for key in ("keep_ratio", "sparsity"))
        and all(isinstance(value[key], str) for key in ("pattern", "kernel"))
    )


def _cost(value: Mapping[str, Any]) -> Cost:
    names = {field.name for field in fields(Cost)}
    if value.keys() != names or not all(_is(v, (int, float)) for v in value.values()):
        raise ValueError(f"cost is not of {', '.join(sorted(names))}")
    return Cost(**value)


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dumps(value).encode()).hexdigest()[:16]


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
