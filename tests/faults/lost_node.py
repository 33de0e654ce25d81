"""Evaluates plans on two simulated nodes, one of which is removed in mid-run, and prints JSON.

``python -m tests.faults.lost_node COUNT FILE``; FILE is where a fault would stand.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any


def main(count: int, fault: Path) -> None:
    """Print whether the scores are those of one process, and how often work was tried."""
    fault.write_text("none")
    token = fault.with_name("token")
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {
        "AMC_TEST_FAULT": str(fault),
        "RAY_AUTH_MODE": "token",  # Ray reads them when it is imported
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }

    import ray
    from ray.cluster_utils import Cluster

    from amc import app
    from amc.config import parse_config
    from amc.failures import Failure
    from amc.ray_workers import RayWorkers
    from amc.reporting import SilentReporter
    from amc.workers import InProcess, outcomes
    from tests.conftest import SMALL, random_works

    config = {**SMALL, "task": "tests.failing:factory"}
    session, _ = app.prepare(parse_config(config), SilentReporter())
    works = random_works(session, count)
    expected = [one.score for one in outcomes(InProcess(session.job()).run(works))]
    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    second = cluster.add_node(**options)
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(cluster.address, log_to_driver=False, runtime_env=environment)
    pool = RayWorkers(session.job(), 2)
    heard: dict[int, tuple[str, tuple[str, ...]]] = {}

    def finished(position: int, _: float, name: str, earlier: tuple[str, ...]) -> None:
        heard[position] = name, earlier
        both = len({worker for worker, _ in heard.values()}) == 2
        if both and second in cluster.list_all_nodes() and len(heard) >= count // 4:
            cluster.remove_node(second, allow_graceful=False)

    results = pool.run(works, finished)
    pool.close()
    ray.shutdown()
    cluster.shutdown()
    print(
        json.dumps(
            {
                "equal": [getattr(result, "score", None) for result in results] == expected,
                "finished": sum(not isinstance(result, Failure) for result in results),
                "nodes": sorted({worker for worker, _ in heard.values()}),
                "attempts": max(len(earlier) + 1 for _, earlier in heard.values()),
                "removed": second not in cluster.list_all_nodes(),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
