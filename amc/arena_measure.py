"""The winners of an arena on the device: timed after all searches, when nothing else runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from amc.arena import TARGET, Bout
from amc.arena_kept import kept_of
from amc.arena_record import read_bout
from amc.files import write_json
from amc.latency import LatencyTable
from amc.latency.table import network_key
from amc.plan_file import read_plan
from amc.planned import build
from amc.pricing import is_here
from amc.reporting import Reporter
from amc.sparsify import layer_patterns
from amc.task import load_task
from amc.timing import measure_networks

TOGETHER = 12  # networks that take turns with each other and the dense one


def measure_winners(bouts: Sequence[Bout], reporter: Reporter) -> None:
    """Time every winner that has not been timed yet, beside its dense network; keep the times.

    Nothing is measured for a table of another machine, which is said.
    """
    for task in dict.fromkeys(bout.task for bout in bouts):
        own = [bout for bout in bouts if bout.task == task and _waits(bout)]
        if not own:
            continue
        table = LatencyTable.load(own[0].folder.parent / TARGET)
        if not is_here(table):
            reporter.message(
                f"note: no latency of {task} was measured: its table is of another machine or torch"
            )
            continue
        with reporter.task(f"measuring the winners of {task}", len(own)) as bar:
            for first in range(0, len(own), TOGETHER):
                together = own[first : first + TOGETHER]
                _measure(together, table)
                bar.advance(len(together))


def _waits(bout: Bout) -> bool:
    """Return whether the search has a winner that was not timed."""
    if (kept := kept_of(bout)) is None:
        return False
    run = kept.run
    return run.failure is None and run.measured_latency_s is None


def _measure(bouts: Sequence[Bout], table: LatencyTable) -> None:
    """Time the winners of one task together."""
    config = bouts[0].config
    task = load_task(config.task, config.data, config.data_folder)
    networks: dict[str, nn.Module] = {"dense": task.network}
    patterns = {}
    for bout in bouts:
        path = bout.folder / f"{bout.agent}-s{bout.seed}" / "plan.json"
        plan = read_plan(path)
        networks[bout.name] = build(plan, path.parent, task)
        patterns[bout.name] = layer_patterns(plan.plan)
    size = config.latency.batch_size
    yardstick = (network_key(task.network_digest, size), task.network)
    found = measure_networks(networks, task.batch(size), table, yardstick, patterns=patterns)
    for bout in bouts:
        kept = read_bout(bout.scores)
        its = found[bout.name]
        own = {
            "measured_latency_s": its.measured_latency_s,
            "measured_raw_s": its.measured_raw_s,
            "clock_factor": its.clock_factor,
            "noisy": its.noisy,
            "speedup": found["dense"].measured_raw_s / its.measured_raw_s,
        }
        timed = kept.model_copy(update={"run": kept.run.model_copy(update=own)})
        write_json(bout.scores, timed.model_dump(mode="json"))
