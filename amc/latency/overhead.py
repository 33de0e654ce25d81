"""What a call costs inside a network beyond what a sitting times."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from amc.deploy import deployed
from amc.latency.clock import settled
from amc.latency.session import DenseNetwork, Session
from amc.latency.trace import trace_ops
from amc.sparsify import LayerPattern, sparsified

CHAIN = 40  # calls in the networks on which the overhead of a call is measured
CHAIN_REPEATS = 30


class _Functions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(CHAIN):
            x = nn.functional.relu(x)
        return x


def _layers() -> nn.Sequential:
    return nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(CHAIN)])


def _sparse_layers() -> nn.Module:
    layer = LayerPattern("2:4")
    return sparsified(deployed(_layers()), {str(i): layer for i in range(CHAIN)})


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: deployed(_layers()),
    "function": lambda: deployed(_Functions()),
    "sparse": _sparse_layers,
}


def call_overhead(threads: int, reference_s: float, kinds: Iterable[str]) -> dict[str, float]:
    """Return what each kind of ``OpTemplate.call_kind`` costs a call, seconds (or < 0).

    Measured on chains of operations so small that calling them is all there is, and in the
    session's own way.
    """
    # The chains' weights are random, and measuring must not move the global generator.
    with torch.random.fork_rng(devices=[]):
        chains = {kind: CHAINS[kind]() for kind in kinds}
    return {kind: _overhead(chain, threads) * reference_s for kind, chain in chains.items()}


def _overhead(network: nn.Module, threads: int) -> float:
    inputs = (torch.ones(1, 4, 2, 2).to(memory_format=torch.channels_last),)
    points = [(op.template, op.dims) for op in trace_ops(network, inputs)]
    dense = DenseNetwork("", network, inputs)
    session = Session([], threads, (dense,), lambda done, total, what: None)
    for _ in range(CHAIN_REPEATS):
        session.time_turn(points, 3)
    alone = sum(session.settled(point).median for point in points)
    return (settled(session.networks[""], threads).median - alone) / len(points)
