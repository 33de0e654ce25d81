"""What an arena came to: ``arena.json``, one row a search, from which its report is made alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from amc.arena import TaskLabel
from amc.config_sections import AgentName
from amc.errors import InputError
from amc.invalid import explain
from amc.printable import shown
from amc.strict_json import read_json
from amc.summary_file import Count, DenseRow, Number, Positive, Text

Fraction = Number | None
Part = TypeVar("Part", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Bouted(_Part):
    """One search that is done.

    ``best`` is the best score within the budget after each evaluation, the score that the search
    goes by on the images that it sees, ``None`` before the first; ``seconds`` is what it had
    cost by then: the agent's own time and that of each evaluation, on one core. ``agent_s`` and
    ``evaluation_s`` are those sums at the end, ``wall_s`` both together. An answer that another
    search had found counts with the seconds that it took there; ``shared`` and ``cached`` say how
    many were so, and how many were answers of the same search.

    ``search_accuracy`` is the winner's on the whole search split, ``searched_accuracy`` on the
    images that the search saw, both in the task's unit. Scores of a search without a plan are
    ``None``.
    """

    task: TaskLabel
    agent: AgentName
    method: AgentName
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    evaluations: Annotated[int, Field(ge=1, le=2**53)]
    best: tuple[Fraction, ...]
    seconds: tuple[Positive, ...]
    evaluation_s: Positive
    agent_s: Positive
    wall_s: Positive
    cached: Count
    shared: Count
    searched_accuracy: Fraction
    search_accuracy: Fraction
    test_accuracy: Fraction
    finetuned_search_accuracy: Fraction
    finetuned_test_accuracy: Fraction
    macs: Count | None
    params: Count | None
    predicted_latency_s: Positive | None
    budget_used: Positive | None
    measured_latency_s: Positive | None = None
    measured_raw_s: Positive | None = None
    clock_factor: Positive | None = None
    noisy: bool | None = None
    speedup: Positive | None = None
    failure: Text | None = None

    @field_validator("best", "seconds")
    @classmethod
    def _one_an_evaluation(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        count = info.data.get("evaluations", len(value))
        if len(value) != count:
            raise ValueError(
                f"it has {len(value)} values where evaluations is {count}; write one for each"
            )
        return value


class TaskFacts(_Part):
    """What the searches of one task share. They go by ``score``, the task's own or another, on
    ``search_images`` of the search split, of which there are ``whole_search_images``;
    ``dense_search_accuracy`` is on all of these.
    """

    network: Text
    space: Text
    budget: Annotated[dict[Text, Number], Field(min_length=1, max_length=1)]
    metric: Text
    recovery: Text
    evaluations: Count
    score: Text
    search_images: Count
    whole_search_images: Count
    test_images: Count
    finetune_steps: Count
    batch_size: Count
    dense_search_accuracy: Fraction
    dense: DenseRow


class Kept(_Part):
    """One search and what is known of its task, in its own file. ``made`` are its journal's facts,
    among them machine, versions and code; ``recorded`` is how many records the journal has.
    """

    run: Bouted
    task: TaskFacts
    made: dict[str, Any] | None = None
    recorded: Count | None = None


class Arena(_Part):
    """A whole arena; ``entries`` has each label's agent and options, ``provenance`` versions."""

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    name: Text
    tasks: Annotated[tuple[TaskLabel, ...], Field(min_length=1)]
    agents: tuple[AgentName, ...]
    task_facts: dict[TaskLabel, TaskFacts]
    entries: dict[AgentName, dict[str, Any]]
    runs: Annotated[tuple[Bouted, ...], Field(min_length=1)]
    missing: tuple[Text, ...] = ()
    provenance: dict[str, Any] = {}

    @field_validator("tasks", "agents")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"{shown(name)} stands twice; remove one")
        return value

    @field_validator("task_facts")
    @classmethod
    def _of_every_task(
        cls, value: dict[str, TaskFacts], info: ValidationInfo
    ) -> dict[str, TaskFacts]:
        for task in info.data.get("tasks", ()):
            if task not in value:
                raise ValueError(f"task_facts lacks {shown(task)} of tasks; add it")
        return value

    @field_validator("runs")
    @classmethod
    def _of_the_arena(cls, value: tuple[Bouted, ...], info: ValidationInfo) -> tuple[Bouted, ...]:
        seen = set()
        for place, run in enumerate(value):
            for key, known in (
                ("task", info.data.get("tasks")),
                ("agent", info.data.get("agents")),
            ):
                if known is not None and (name := getattr(run, key)) not in known:
                    raise ValueError(
                        f"runs.{place}.{key} {shown(name)} is none of {key}s {shown([*known])}; "
                        "add it there, or remove the run"
                    )
            if (run.task, run.agent, run.seed) in seen:
                told = f"{run.task}, {run.agent}, seed {run.seed}"
                raise ValueError(f"runs.{place} ({told}) stands twice; remove one")
            seen.add((run.task, run.agent, run.seed))
        return value

    @field_validator("provenance")
    @classmethod
    def _of_machines(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(mixed := value.get("mixed", []), list):
            raise ValueError(f"provenance.mixed {shown(mixed)} is no list; write a list")
        if not isinstance(machine := value.get("machine", {}), dict):
            raise ValueError(
                f"provenance.machine {shown(machine)} has no keys; write keys and values"
            )
        return value

    def of(self, task: str | None = None, agent: str | None = None) -> list[Bouted]:
        """Return the searches of a task and an agent (``None``: all), in their order."""
        return [r for r in self.runs if task in (None, r.task) and agent in (None, r.agent)]

    def labels(self, task: str | None = None) -> list[str]:
        """Return the agents of which there is a search on ``task`` (``None``: on all tasks)."""
        tasks: Sequence[str] = self.tasks if task is None else (task,)
        return [a for a in self.agents if all(self.of(t, a) for t in tasks)]


def read_arena(path: Path) -> Arena:
    """Return the arena in a file; ``InputError`` names each field that is not as it must be."""
    return checked(read_json(path, "arena"), Arena, path)


def read_bout(path: Path) -> Kept:
    """Return what a run folder's own file keeps; ``InputError`` where it is none."""
    return checked(read_json(path, "arena's search"), Kept, path)


def checked(value: Any, kind: type[Part], path: Path) -> Part:
    """Return ``value``, read from the file ``path``, as ``kind``."""
    try:
        # As JSON, where a list may be a tuple.
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise InputError(f"{str(path)!r}: {explain(error, kind)}; write it again") from error


def cumulated(values: Iterable[float]) -> list[float]:
    """Return the sum up to each of ``values``, to a microsecond."""
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(round(total, 6))
    return sums
