"""One line of a journal: from an evaluation to JSON with a checksum, and back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import NoneType
from typing import Any

from amc.cost import Cost
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.plan import Plan
from amc.printable import dotted, shown
from amc.strict_json import MB, Limits, parse_json

SCHEMA_VERSION = 2  # 1 had no checksums

LIMITS = Limits(size=16 * MB, depth=16, remedy="restore it")
CHOICE: dict[str, type | tuple[type, ...]] = {
    "keep_ratio": (int, float),
    "kept": (list, NoneType),
    "pattern": str,
    "sparsity": (int, float),
    "kernel": str,
}
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
    if not isinstance(value, dict):
        raise ValueError(f"it is {shown(value)}, no object")
    if not isinstance(value.get("observed", {}), dict):
        raise ValueError(f"observed is {shown(value['observed'])}")
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
        if key not in value:
            raise ValueError(f"{key} is missing")
        if not _is(value[key], kind):
            raise ValueError(f"{key} is {shown(value[key])}")
    weights = value["weights_sha256"]
    if weights is not None and not SHA256.fullmatch(weights):  # it is the name of a file
        raise ValueError(f"weights_sha256 {shown(weights)} is no digest")
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
    if not isinstance(value, dict):
        raise ValueError(f"plan is {shown(value)}")
    for site, choice in value.items():
        _check_choice(choice, ("plan", site))
    return Plan.from_json(value)


def _check_choice(value: Any, place: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is the JSON of a ``Choice``."""
    _check_keys(value, CHOICE, place)
    for key, kind in CHOICE.items():
        if not _is(value[key], kind):
            raise ValueError(f"{dotted((*place, key))} is {shown(value[key])}")
    for index, kept in enumerate(value["kept"] or ()):
        if not _is(kept, int):
            raise ValueError(f"{dotted((*place, 'kept', index))} is {shown(kept)}")


def _cost(value: Mapping[str, Any]) -> Cost:
    names = [field.name for field in fields(Cost)]
    _check_keys(value, names, ("cost",))
    for name in names:
        if not _is(value[name], (int, float)):
            raise ValueError(f"cost.{name} is {shown(value[name])}")
    return Cost(**value)


def _check_keys(value: Any, names: Iterable[str], place: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{dotted(place)} is {shown(value)}")
    for name in names:
        if name not in value:
            raise ValueError(f"{dotted((*place, name))} is missing")
    if more := [key for key in value if key not in names]:
        raise ValueError(f"{dotted((*place, more[0]))} is not a known key")


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dumps(value).encode()).hexdigest()[:16]


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
