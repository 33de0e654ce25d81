"""Prints what two Ray workers make of some plans: ``python -m tests.reconstruction_on_ray NAME...``

The names are recoveries; the answer is one JSON object with their ``digests``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from amc import app
from amc.config import parse_config
from amc.plan import Plan
from amc.ray_workers import RayWorkers
from amc.reporting import SilentReporter
from amc.session import Session
from amc.weights import state_sha256
from amc.worker import Work
from amc.workers import Workers, outcomes
from tests.conftest import SMALL


def plans(session: Session) -> list[Plan]:
    """Return three plans of a session, one of them the whole network."""
    space = session.space
    return [space.plan([s.nearest(k * s.channels) for s in space.sites]) for k in (0.5, 1, 0.7)]


def digests(workers: Workers, some: Sequence[Plan]) -> list[list[str | float]]:
    """Return of each plan its score, the weights of it, and those after two steps of training."""
    left = outcomes(workers.run([Work(plan, None, 2, 5) for plan in some]))
    ends = workers.finalise([(plan, None, None, 0) for plan in some])
    return [
        [end.search_score, state_sha256(end.state or {}), state_sha256(outcome.state or {})]
        for end, outcome in zip(ends, left, strict=True)
    ]


def main(names: Sequence[str]) -> None:
    """Print the digests of each recovery; the first pool keeps Ray open for the others."""
    found, pools = {}, []
    for name in names:
        session, _ = app.prepare(parse_config({**SMALL, "recovery": name}), SilentReporter())
        pools.append(RayWorkers(session.job(), 2, cores=2 * len(names)))
        found[name] = digests(pools[-1], plans(session))
    for pool in reversed(pools):
        pool.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
