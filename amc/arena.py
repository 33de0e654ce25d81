"""An arena: what a YAML file says of tasks and contestants, and the searches that follow from it.

    common:  keys of a search's configuration, for all
    tasks:   {NAME: the keys that this task changes; task is NAME where nothing else is said}
    entries: {LABEL: {agent: NAME, seeds: [...], and options of the agent}}

Each task, entry and seed is a search of its own, in the run folder ``DIR/TASK/LABEL-sSEED``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from amc.config import OPTIONS, SearchConfig, Seed, parse_config
from amc.config_sections import AgentName, Section
from amc.errors import InputError
from amc.invalid import explain
from amc.registry import nearest
from amc.strict_json import check_plain
from amc.strict_yaml import read_yaml

# A part of the names of folders, so no path.
TaskLabel = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
SCORES = "arena.json"  # of one search, in its run folder
TARGET = "target.json"  # of one task, beside its run folders
NOT_HERE = {"agents": "entries", "workers": "amc arena --workers"}


class Entry(Section):
    """One contestant: an agent, its seeds (``None``: those of task or file) and its options."""

    agent: AgentName
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1, max_length=1000)
    options: dict[str, Any] = Field({})

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("it must list each seed once; list others")
        return value


class Experiment(Section):
    """An arena's file.

    ``measure``: the winners are timed on this machine at the end. ``share``: what one search of a
    task has evaluated, another is told.
    """

    common: dict[str, Any] = Field({}, max_length=100)
    tasks: dict[TaskLabel, dict[str, Any]] = Field(min_length=1, max_length=100)
    entries: dict[AgentName, Entry] = Field(min_length=1, max_length=100)
    measure: bool = True
    share: bool = True

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks_without_keys(cls, value: Any) -> Any:
        return _filled(value)

    @field_validator("entries", mode="before")
    @classmethod
    def _agents_of_their_name(cls, value: Any) -> Any:
        """Let an entry without ``agent`` be of the agent of its name, and gather its options."""
        entries = _filled(value)
        if not isinstance(entries, dict):
            return entries
        return {
            label: _entry(label, own) if isinstance(own, dict) else own
            for label, own in entries.items()
        }

    @field_validator("common", "tasks")
    @classmethod
    def _elsewhere(cls, value: dict[str, Any]) -> dict[str, Any]:
        sections = [value, *(own for own in value.values() if isinstance(own, dict))]
        for section in sections:
            for key in set(section) & set(NOT_HERE):
                raise ValueError(f"{key} has no place here; it is the business of {NOT_HERE[key]}")
        return value


@dataclass(frozen=True)
class Bout:
    """One search of an arena: ``label`` on ``task`` with ``seed``, in the run folder ``folder``.

    With ``share`` it is told what others have found.
    """

    task: str
    label: str
    seed: int
    folder: Path
    config: SearchConfig
    share: bool = True

    @property
    def name(self) -> str:
        """``TASK/LABEL-sSEED``."""
        return f"{self.task}/{self.folder.name}"

    @property
    def agent(self) -> str:
        """The agent's name in the registry."""
        (agent,) = self.config.agents
        return agent

    @property
    def scores(self) -> Path:
        """Where the arena keeps what the search came to; it is there once the search is done."""
        return self.folder / SCORES


def read_experiment(path: Path) -> Experiment:
    """Return the checked experiment of a YAML file; ``InputError`` names each refused field."""
    try:
        return Experiment(**read_yaml(path, "experiment"))
    except ValidationError as error:
        raise InputError(explain(error, Experiment)) from error
    except TypeError as error:
        raise InputError(f"the experiment's keys must be names ({error}); rename them") from error


def bouts_of(
    experiment: Experiment, name: str, run_dir: Path, only: Sequence[str] | None = None
) -> list[Bout]:
    """Return every search of the experiment ``name``, or those of the tasks ``only``.

    They come seed by seed, so that what is done of an arena early on treats all alike. Each config
    evaluates in process and is priced by the task's own table. Raises ``InputError``, which names
    the task and the entry, for what is no configuration of a search.
    """
    for task in only or ():
        if task not in experiment.tasks:
            known = [*experiment.tasks]
            raise InputError(
                f"--tasks {task!r} is no task of the experiment{nearest(task, known) or ';'} "
                f"Known: {', '.join(known)}"
            )
    found = []
    for task in only or experiment.tasks:
        for label in experiment.entries:
            found += list(_bouts(experiment, name, run_dir, task, label))
    order = sorted({bout.seed for bout in found})
    return sorted(found, key=lambda bout: order.index(bout.seed))


def _bouts(
    experiment: Experiment, name: str, run_dir: Path, task: str, label: str
) -> Iterator[Bout]:
    entry = experiment.entries[label]
    raw = _merged({"task": task, "experiment": name, **experiment.common}, experiment.tasks[task])
    if entry.seeds is not None:
        raw["seeds"] = entry.seeds
    try:
        whole = parse_config({**raw, "workers": 0, "agents": {entry.agent: entry.options}})
    except InputError as error:
        lines = "\n".join(
            f"tasks.{task}, entries.{label}: {line}" for line in f"{error}".split("\n")
        )
        raise InputError(lines) from error
    horizon = whole.horizon or whole.evaluations
    for seed in whole.seeds:
        folder = run_dir / task / f"{label}-s{seed}"
        own = whole.model_copy(update={"seeds": (seed,), "horizon": horizon})
        yield Bout(task, label, seed, folder, own, experiment.share)


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``common`` as a task changes it: sections key by key, budgets as a whole."""
    merged = dict(common)
    for key, value in own.items():
        before = merged.get(key)
        inside = key != "budget" and isinstance(value, dict) and isinstance(before, dict)
        merged[key] = {**before, **value} if inside else value  # type: ignore[dict-item]
    return merged


def _filled(value: Any) -> Any:
    """Return a mapping with ``{}`` for each ``null``, which is how YAML has what is empty."""
    return {k: v or {} for k, v in value.items()} if isinstance(value, dict) else value


def _entry(label: Any, own: dict[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in own.items() if key not in ("agent", "seeds")}
    check_plain(options, f"entries.{label}", OPTIONS)
    seeds = {"seeds": own["seeds"]} if "seeds" in own else {}
    return {"agent": own.get("agent", label), **seeds, "options": options}
