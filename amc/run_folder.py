"""A run folder: created complete, by rename, before anything slow starts.

DIR/config.yaml        the whole run
DIR/summary.json       a list, one object an agent and seed
DIR/AGENT-sSEED/       config.yaml journal.jsonl target.json, then plan.json, weights, pictures
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
from amc.config import SearchConfig, load_yaml, parse_config
from amc.contained import check_contained
from amc.errors import InputError
from amc.files import sync_folder, write_json, write_text
from amc.journal import Journal
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
        building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        building.chmod(0o755)
        try:
            write_config(building / "config.yaml", config)
            for search in RunFolder(building, config).searches:
                own = {
                    "agents": {search.agent: config.agents[search.agent]},
                    "seeds": [search.seed],
                }
                write_config(
                    search.folder / "config.yaml",
                    parse_config({**config.model_dump(mode="json"), **own}),
                )
                write_json(search.target, table)
                Journal.create(search.journal, facts[search.agent])
            building.rename(path)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, OSError) and path.exists():
                raise InputError(
                    f"run folder {str(path)!r} exists; choose another --run-dir"
                ) from error
            raise
        sync_folder(path.parent)
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
        return RunFolder(path, parse_config(load_yaml(path / "config.yaml", "config")))

    def again(self, config: SearchConfig) -> RunFolder:
        """Return this run with what ``config`` may change of it: where and how, not what, it runs.

        Raises ``InputError`` where ``config`` is of another run.
        """
        if self.config.digest != config.digest:
            raise InputError(
                f"run folder {str(self.path)!r} holds a run of another configuration; choose "
                f"another --run-dir, or go on with that one: amc resume {self.path}"
            )
        return replace(self, config=config.model_copy(update={"latency": self.config.latency}))

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
