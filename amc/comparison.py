"""Several finished runs read together: their searches, learning curves and configurations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.config import SearchConfig
from amc.config_identity import NOT_OF_THE_RESULT
from amc.cost import BUDGET_KEYS, Budget
from amc.errors import InputError
from amc.evaluation import Evaluation
from amc.journal import context_facts, read_journal
from amc.learning_curves import Spread, curves_of, within
from amc.plan import digest
from amc.plan_file import read_plan
from amc.run_folder import RunFolder, Search

# The field of a summary's ``dense`` object for each field of ``Cost``.
DENSE_KEYS = {"latency_s": "predicted_latency_s"}


@dataclass(frozen=True)
class SearchRecord:
    """One finished search: its row of the summary, all evaluations, and what its winner keeps."""

    run: str
    agent: str
    seed: int
    row: Mapping[str, Any]
    history: tuple[Evaluation, ...]
    budget: Budget
    keep_ratios: Mapping[str, float]

    @property
    def within(self) -> list[Evaluation | None]:
        """Every evaluation, ``None`` in place of those beyond the budget."""
        return within(self.history, self.budget)


@dataclass(frozen=True)
class RunRecord:
    """One finished run. ``facts`` are what its evaluations depended on, from the journal."""

    label: str
    path: Path
    config: SearchConfig
    facts: Mapping[str, Any]
    searches: tuple[SearchRecord, ...]

    @property
    def setting(self) -> tuple[str, int]:
        """What must be the same for two runs to stand in one picture: task and batch size."""
        return self.config.task, self.config.latency.batch_size


@dataclass(frozen=True)
class Group:
    """The searches of one agent that differ in their seeds alone, wherever they were run."""

    label: str
    agent: str
    searches: tuple[SearchRecord, ...]


def read_runs(run_dirs: Sequence[Path]) -> list[RunRecord]:
    """Return the finished runs in these folders; ``InputError`` for one that is not finished."""
    last = Counter(path.absolute().name for path in run_dirs)
    labels = [p.absolute().name if last[p.absolute().name] == 1 else str(p) for p in run_dirs]
    return [_read_run(RunFolder.open(p), n) for p, n in zip(run_dirs, labels, strict=True)]


def _read_run(folder: RunFolder, label: str) -> RunRecord:
    rows = {(row["agent"], row["seed"]): row for row in folder.read_summary()}
    facts: dict[str, Any] = {}
    searches = []
    for one in folder.searches:
        row = rows.get((one.agent, one.seed))
        if row is None:
            raise InputError(
                f"{str(folder.path)!r} has no result of {one.name} in its summary.json; go on "
                f"with: amc resume {folder.path}"
            )
        header, history = read_journal(one.journal)
        facts = context_facts(header)
        if not history and not row.get("failure"):
            raise InputError(
                f"{str(one.journal)!r} holds no evaluation; go on with: amc resume {folder.path}"
            )
        searches.append(
            SearchRecord(
                *(label, one.agent, one.seed, row, tuple(history)),
                _budget(folder.config, row, one),
                read_plan(one.folder / "plan.json").plan.keep_ratios if row["plan"] else {},
            )
        )
    return RunRecord(label, folder.path, folder.config, facts, tuple(searches))


def _budget(config: SearchConfig, row: Mapping[str, Any], search: Search) -> Budget:
    """Return the run's budget in its own unit, from what the dense network costs on record."""
    ((key, fraction),) = config.budget.items()
    name = DENSE_KEYS.get(BUDGET_KEYS[key], BUDGET_KEYS[key])
    dense = row.get("dense")
    cost = dense.get(name) if isinstance(dense, dict) else None
    if not isinstance(cost, (int, float)):
        raise InputError(
            f"the summary's row of {search.name} has no number at dense.{name}; write it again "
            f"with: amc resume {search.folder.parent}"
        )
    return Budget(key, fraction, fraction * cost)


def groups_of(runs: Sequence[RunRecord]) -> list[Group]:
    """Return the searches of ``runs`` by agent and configuration, whatever the seed.

    A label is the agent, with the first run's name behind it where an agent has several groups.
    Searches that failed before their first evaluation are in none.
    """
    found: dict[tuple[str, str], list[SearchRecord]] = {}
    for run in runs:
        for search in (search for search in run.searches if search.history):
            key = search.agent, _key(run.config, search.agent)
            found.setdefault(key, []).append(search)
    several = Counter(agent for agent, _ in found)
    groups = []
    for (agent, _), searches in found.items():
        first, *others = dict.fromkeys(search.run for search in searches)
        names = f"{first} and {len(others)} more" if others else first
        label = f"{agent} ({names})" if several[agent] > 1 else agent
        groups.append(Group(label, agent, tuple(searches)))
    return groups


def _key(config: SearchConfig, agent: str) -> str:
    """Return a digest of all that one agent's searches depend on but the seed."""
    values = config.model_dump(mode="json", exclude={**NOT_OF_THE_RESULT, "agents": True})
    values.pop("seeds")
    return digest([values, config.agents[agent]])


def curves(groups: Sequence[Group]) -> tuple[dict[str, Spread], dict[str, Spread] | None]:
    """Return the spread of best scores and, where they differ from those, of rewards, by label."""
    return curves_of({group.label: [s.within for s in group.searches] for group in groups})


def by_setting(runs: Sequence[RunRecord]) -> dict[tuple[str, int], list[RunRecord]]:
    """Return the runs of each task and batch size."""
    found: dict[tuple[str, int], list[RunRecord]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return found


def curves_json(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the learning curves as JSON values, an object a group of ``groups_of``."""
    lines = []
    for (task, batch_size), own in by_setting(runs).items():
        groups = groups_of(own)
        scores, rewards = curves(groups)
        for group in groups:
            reward = None if rewards is None else rewards[group.label].as_json()
            lines.append(
                {
                    "task": task,
                    "batch_size": batch_size,
                    "label": group.label,
                    "agent": group.agent,
                    "runs": list(dict.fromkeys(s.run for s in group.searches)),
                    "seeds": [s.seed for s in group.searches],
                    "score": scores[group.label].as_json(),
                    "reward": reward,
                }
            )
    return lines


def differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return what is not the same in all runs: the text of each run's value, by dotted key.

    Keys are those of the configuration, and under ``facts.`` what evaluations depended on beside
    it; a run without a key has a dash.
    """
    flat = [
        {**_flat(run.config.model_dump(mode="json")), **_flat({"facts": dict(run.facts)})}
        for run in runs
    ]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key, "-") for one in flat] for key in keys}
    return {key: texts for key, texts in values.items() if len(set(texts)) > 1}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[f"{prefix}{key}"] = text
    return found
