"""The journal: one JSON object a line, on disk before an agent sees the result.

The first line is a header with the facts that every record depends on. Whatever may differ between
equal runs stands under the one key ``observed``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amc.cost import Cost
from amc.errors import InputError
from amc.evaluation import Evaluation, Evaluator, Request
from amc.files import write_text
from amc.plan import Plan

SCHEMA_VERSION = 1


class Journal:
    """An append-only file of evaluations. ``records`` are those that it held when opened."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Open ``path`` for appending; ``InputError`` where its header has other ``facts``."""
        self.path = path
        header, self.records = read_journal(path)
        for fact in dict.fromkeys([*facts, *header]):
            then, now = header.get(fact), facts.get(fact)
            if fact != "schema_version" and then != now:
                raise InputError(
                    f"{path}: {fact} was {then!r} when the run began and is {now!r} now; "
                    "start a new run in another folder"
                )
        self._length = len(self.records)

    @staticmethod
    def create(path: Path, facts: Mapping[str, Any]) -> None:
        """Write a journal that holds its header alone."""
        write_text(path, _line({"schema_version": SCHEMA_VERSION, **facts}))

    def append(self, evaluations: Sequence[Evaluation]) -> None:
        """Add records and wait until they are on disk."""
        with self.path.open("a", encoding="utf-8") as file:
            for evaluation in evaluations:
                file.write(_line({"sequence": self._length, **_to_json(evaluation)}))
                self._length += 1
            file.flush()
            os.fsync(file.fileno())


class JournaledEvaluator:
    """Answers the first requests from the journal, then goes on live and records."""

    def __init__(self, inner: Evaluator, journal: Journal) -> None:
        self._inner, self._journal = inner, journal
        self._position = 0

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request; ``InputError`` where a request is not that on record."""
        recorded = self._journal.records[self._position : self._position + len(requests)]
        for request, record in zip(requests, recorded, strict=False):
            if request != record.request:
                raise InputError(
                    f"{self._journal.path}: record {self._position} answers another request than "
                    "the search makes now; the code or the configuration has changed since, so "
                    "start a new run in another folder"
                )
            self._position += 1
        fresh = requests[len(recorded) :]
        if not fresh:
            return recorded
        answers = self._inner.evaluate(fresh)
        self._journal.append(answers)
        self._position += len(answers)
        return [*recorded, *answers]


def read_journal(path: Path, repair: bool = True) -> tuple[dict[str, Any], list[Evaluation]]:
    """Return header and records, without a last line that was cut short.

    With ``repair`` that line is cut off the file too; whoever only looks leaves the file alone.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; name a run folder that amc search wrote")
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    offset, values = 0, []
    for line in whole.splitlines(keepends=True):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise InputError(
                f"{path} is corrupt at byte {offset}; restore it from a copy"
            ) from error
        offset += len(line)
    header = values[0] if values and isinstance(values[0], dict) else {}
    if header.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has no header of schema version {SCHEMA_VERSION}; restore it from a copy"
        )
    try:
        records = [_from_json(value) for value in values[1:]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} has a malformed record ({type(error).__name__}: {error}); "
            "restore it from a copy"
        ) from error
    if repair and whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return header, records


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"


def _to_json(evaluation: Evaluation) -> dict[str, Any]:
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


def _from_json(value: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        key=value["key"],
        request=Request(
            Plan.from_json(value["plan"]),
            value["parent"],
            value["finetune"],
            value["measure"],
            value.get("seed", 0),
        ),
        score=value["score"],
        cost=Cost(**value["cost"]),
        reward=value["reward"],
        feasible=value["feasible"],
        reason=value["reason"],
        weights_sha256=value["weights_sha256"],
        cached=value["cached"],
        observed=value["observed"],
        task_score=value.get("task_score"),
        stopped_after=value.get("stopped_after"),
    )
