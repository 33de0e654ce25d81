"""A run folder: created complete, by rename, before anything slow starts.

DIR/config.yaml        the whole run, as it is gone on with
DIR/summary.json       a list, one object an agent and seed
DIR/AGENT-sSEED/       config.yaml (as at the creation) journal.jsonl target.json, then plan.json,
                       weights, pictures
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from amc import faults
from amc.config import SearchConfig, parse_config
from amc.config_identity import MAY_CHANGE, OF_LENGTH, differing, differing_of_search, told
from amc.contained import check_contained
from amc.errors import InputError
from amc.files import fsync, write_json, write_text
from amc.journal import Journal
from amc.leftovers import remove_abandoned
from amc.ownership import owned
from amc.strict_yaml import read_yaml
from amc.summary_file import read_rows


@dataclass(frozen=True)
class Search:
    """One agent with one seed, and its own folder inside the run's."""

    agent: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """``AGENT-sSEED``."""
        return self.folder.name

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.folder / "journal.jsonl"

    @property
    def creation(self) -> Path:
        """The configuration of this search alone, as it was when the run was created."""
        return self.folder / "config.yaml"

    @property
    def target(self) -> Path:
        """The latency table that the search was priced with."""
        return self.folder / "target.json"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: its configuration, and a ``Search`` for each agent and seed."""

    path: Path
    config: SearchConfig

    @property
    def searches(self) -> list[Search]:
        """Every search of the run, in the order in which they are made."""
        return [
            Search(agent, seed, self.path / f"{agent}-s{seed}")
            for seed in self.config.seeds
            for agent in self.config.agents
        ]

    @staticmethod
    def create(
        path: Path,
        config: SearchConfig,
        facts: Mapping[str, Mapping[str, Any]],
        table: Mapping[str, Any],
    ) -> RunFolder:
        """Write the folder of a new run; every file of it appears at once.

        ``facts`` are those of each agent's journal.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        around = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        building = around / path.name
        try:
            with owned(around):  # so that nobody takes it for one that was abandoned
                building.mkdir(mode=0o755)
                RunFolder(building, config)._write(facts, table)
                building.rename(path)
        except BaseException as error:
            if isinstance(error, OSError) and path.exists():
                raise InputError(
                    f"run folder {str(path)!r} exists; choose another --run-dir"
                ) from error
            raise
        finally:
            shutil.rmtree(around, ignore_errors=True)
        fsync(path.parent)
        faults.point("folder.created")
        return RunFolder(path, config)

    @staticmethod
    def open(path: Path) -> RunFolder:
        """Return the run in ``path``; ``InputError`` where there is none."""
        if not (path / "config.yaml").is_file():
            raise InputError(
                f"{str(path)!r} is no run folder (it has no config.yaml); name one that amc search "
                "wrote"
            )
        check_contained(path)
        return RunFolder(path, parse_config(read_yaml(path / "config.yaml", "config")))

    def _write(self, facts: Mapping[str, Mapping[str, Any]], table: Mapping[str, Any]) -> None:
        """Write all that a new run has, to last."""
        write_config(self.path / "config.yaml", self.config)
        values = self.config.model_dump(mode="json")
        for search in self.searches:
            agents = {search.agent: self.config.agents[search.agent]}
            own = {**values, "agents": agents, "seeds": [search.seed]}
            write_config(search.creation, parse_config(own))
            write_json(search.target, table)
            Journal.create(search.journal, facts[search.agent])
        fsync(self.path)

    def save(self) -> None:
        """Write the run's configuration where the folder has another one."""
        if RunFolder.open(self.path).config != self.config:
            write_config(self.path / "config.yaml", self.config)

    def again(self, config: SearchConfig) -> RunFolder:
        """Return this run with what ``config`` may change of it: where and how, not what, it runs.

        Raises ``InputError`` where ``config`` is of another run.
        """
        if self.config.digest != config.digest:
            different = differing(self.config, config)
            more = config.evaluations if config.evaluations > self.config.evaluations else None
            longer = more is not None and set(different) <= set(OF_LENGTH)
            raise InputError(
                f"run folder {str(self.path)!r} holds a run of another configuration: "
                f"{told(different, 'here')}; choose another --run-dir, or go on with that one: "
                f"amc resume {self.path}{f' --evaluations {more}' if longer else ''} (a run may "
                f"change evaluations, which only grow, and {MAY_CHANGE})"
            )
        return replace(self, config=config.model_copy(update={"latency": self.config.latency}))

    def check_searches(self) -> None:
        """Raise ``InputError`` where a search is not the one that was created, but for its length.

        Each has its configuration of that moment, which is never written again: it is what the
        run's own, which may be edited by hand, is held against.
        """
        for search in self.searches:
            if not search.creation.is_file():
                raise InputError(
                    f"{str(search.creation)!r} is missing; restore it from a copy, or, where it is "
                    f"{str(self.path / 'config.yaml')!r} that names this agent and seed too many, "
                    "take them out there: a run has the searches that it was created with"
                )
            creation = parse_config(read_yaml(search.creation, "config"))
            if list(creation.agents) != [search.agent] or creation.seeds != (search.seed,):
                raise InputError(
                    f"{str(search.creation)!r} is not of {search.agent} seed {search.seed}; "
                    "restore it from a copy"
                )
            if different := differing_of_search(creation, self.config):
                raise InputError(
                    f"{str(self.path / 'config.yaml')!r} is not what {search.name} began with: "
                    f"{told(different, 'there')}; put the recorded values back there, or start a "
                    f"new run in another folder (a run may change evaluations, which only grow, "
                    f"and {MAY_CHANGE})"
                )

    def read_summary(self) -> list[dict[str, Any]]:
        """Return the rows of ``summary.json``; ``InputError`` while the run is not finished."""
        file = self.path / "summary.json"
        if not file.is_file():
            raise InputError(
                f"{str(self.path)!r} has no summary.json, so its search has not finished; "
                f"go on with: amc resume {self.path}"
            )
        rows, known = read_rows(file), {(one.agent, one.seed) for one in self.searches}
        for number, row in enumerate(rows):
            if (row["agent"], row["seed"]) not in known:
                raise InputError(
                    f"summary {str(file)!r}: {number}.agent {row['agent']!r} with {number}.seed "
                    f"{row['seed']} is no search of this run; write it again with: amc resume "
                    f"{self.path}"
                )
        return rows

    def plan(self, agent: str | None, seed: int | None) -> Path:
        """Return the plan file of the best finished search, among ``agent``'s and ``seed``'s.

        Raises ``InputError`` for one that the run does not have, or that found no plan.
        """
        rows = self.read_summary()
        for key, value in (("agent", agent), ("seed", seed)):
            known = sorted({str(row[key]) for row in rows})
            if value is not None and str(value) not in known:
                raise InputError(
                    f"{key} {value!r} is not in run {str(self.path)!r}; it has {', '.join(known)}"
                )
        chosen = [r for r in rows if agent in (None, r["agent"]) and seed in (None, r["seed"])]
        ended = [row for row in chosen if row["search_accuracy"] is not None]
        if not ended:
            raise InputError(
                f"run {str(self.path)!r} has no plan of agent {agent or 'any'}, seed "
                f"{'any' if seed is None else seed}; amc compare {self.path} shows what it has"
            )
        best = max(ended, key=lambda row: float(row["search_accuracy"]))
        return self.path / f"{best['agent']}-s{best['seed']}" / "plan.json"


def write_config(path: Path, config: SearchConfig) -> None:
    """Write a configuration as YAML."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
