"""One ``ddpg`` search of the digits network: ``python -m tests.ddpg_in_a_process DIR TABLE SEED``

Prints one JSON object: digests of the journal (without ``observed``) and of the actor's weights
before and after the search, and how many gradient steps there were.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.ddpg import DDPGAgent
from agents.ddpg_learner import AMCDDPG
from amc.assembly import frozen, journal_facts, prepare
from amc.config import parse_config
from amc.journal import Journal
from amc.reporting import SilentReporter
from amc.run_folder import RunFolder
from amc.search_run import run_search
from amc.search_task import SearchTask
from amc.tracking import open_tracker
from amc.workers import InProcess
from envs.vector import PruningVecEnv
from tests.conftest import SMALL

OPTIONS: dict[str, Any] = {"warmup_episodes": 4, "hidden": 64}


class Watched(DDPGAgent):
    """Keeps its learner, and a digest of the actor before anything is learned."""

    learner: AMCDDPG
    before: str

    def model(self, task: SearchTask, env: PruningVecEnv) -> AMCDDPG:
        """Return the learner for one search."""
        self.learner = super().model(task, env)
        self.before = weights_sha256(self.learner.actor)
        return self.learner


def weights_sha256(module: nn.Module) -> str:
    """Return the digest of every bit of a module's parameters and buffers, and of their names."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def journal_sha256(path: Path) -> str:
    """Return the digest of a journal without what may differ between equal runs."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.pop("observed", None)
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def searched(folder: Path, table: Path, seed: int) -> dict[str, Any]:
    """Search in ``folder`` with the latency table ``table``; return the digests."""
    config = frozen(
        parse_config(
            {
                **SMALL,
                "agents": {"ddpg": OPTIONS},
                "seeds": [seed],
                "evaluations": 12,
                "latency": {"batch_size": 64, "target": str(table)},
            }
        )
    )
    session, _ = prepare(config, SilentReporter())
    facts = journal_facts(session)
    run = RunFolder.create(folder, config, facts, session.table.as_json())
    (search,) = run.searches
    agent = Watched(**OPTIONS)
    tracker = open_tracker(folder, experiment="amc", run_name="r", warn=print, uri="off")
    workers = InProcess(session.job())
    journal = Journal(search.journal, facts["ddpg"])
    found = run_search(session, search, journal, agent, workers, SilentReporter(), tracker)
    return {
        "evaluations": len(found.history),
        "gradient_steps": agent.learner._n_updates,
        "journal": journal_sha256(search.journal),
        "actor_before": agent.before,
        "actor": weights_sha256(agent.learner.actor),
        "critic": weights_sha256(agent.learner.critic),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print(json.dumps(searched(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
