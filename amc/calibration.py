"""The whole networks that a table is measured with, and timing them in processes of their own.

From process to process a network's time moves by 2% and more, whatever the clock does: the memory
it is given lies differently. So what calling costs is learnt from several fresh processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from amc.apart import apart
from amc.deploy import deployed
from amc.latency.checkpoint import Turn
from amc.latency.session import Session, WholeNetwork, device_settings
from amc.latency.table import network_key
from amc.mixed_plan import random_plans
from amc.reporting import Reporter
from amc.space import SearchSpace
from amc.task import LoadedTask

PLANS = {False: 6, True: 16}  # without and with sparse layers
SEED = (20181, 3494)  # two numbers, so that no one-number seed draws the same plans
PROCESSES = {False: 2, True: 6}
TURNS = {False: 5, True: 3}  # of all networks in one process, session.RUNS timings each


@dataclass(frozen=True)
class WholeNetworks:
    """The dense network of a task, and compressed ones of random plans that no benchmark draws."""

    task: LoadedTask
    space: SearchSpace
    batch_size: int
    threads: int
    patterns: tuple[str, ...]

    @property
    def dense(self) -> WholeNetwork:
        """The dense network, as a table names it."""
        task, size = self.task, self.batch_size
        key = network_key(task.network_digest, size)
        return WholeNetwork(key, deployed(task.network, task.inputs), task.batch(size))

    def compressed(self) -> list[WholeNetwork]:
        """Return networks of random plans. Their keys name the plans by their digests."""
        task, space, count = self.task, self.space, PLANS[bool(self.patterns)]
        plans = random_plans(task, space, count, SEED, ["dense", *self.patterns])
        inputs = task.batch(self.batch_size)
        return [
            WholeNetwork(network_key(p.digest, self.batch_size), p.network(task, space), inputs)
            for p in plans
        ]

    def processes(
        self, reporter: Reporter, patience_s: float | None
    ) -> list[Callable[[float | None], Turn]]:
        """Return functions of ``goal_s`` that time all of the networks in a fresh process each.

        It and ``patience_s`` are what ``amc.latency.session.Session`` says.
        """
        few = self.task.search[: self.batch_size]
        sent = replace(self, task=replace(self.task.without_test, train=few, search=few))

        def process(goal_s: float | None) -> Turn:
            return apart(timed, reporter, sent, patience_s, goal_s)

        return [process] * PROCESSES[bool(self.patterns)]


def timed(
    reporter: Reporter, its: WholeNetworks, patience_s: float | None, goal_s: float | None
) -> Turn:
    """Return the timings of the networks in this process, as of one turn."""
    networks = [its.dense, *its.compressed()]
    session = Session(
        [], its.threads, lambda done, total, what: None, patience_s=patience_s, goal_s=goal_s
    )
    turns = TURNS[bool(its.patterns)]
    with (
        device_settings(its.threads),
        reporter.task("timing whole networks in a fresh process", turns) as bar,
    ):
        for _ in range(turns):
            session.time_turn([], 0, networks)
            bar.advance()
    return session.as_turn
