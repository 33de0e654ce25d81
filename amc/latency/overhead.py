"""What a call costs inside a network beyond what a sitting times.

Two steps: chains of tiny operations say roughly what calling costs, and whole networks, which are
timed in the same sitting, what it costs there, where Python's own data has left the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from amc.deploy import deployed
from amc.latency.calls import DENSE_AFTER_SPARSE
from amc.latency.clock import settled
from amc.latency.session import Session, WholeNetwork
from amc.latency.trace import trace_ops
from amc.sparsify import LayerPattern, sparsified

CHAIN = 40  # calls in the networks on which the overhead of a call is measured
CHAIN_REPEATS = 30
# How far from the chains' figures whole networks may lead: standard deviations, seconds.
DOUBT_S = 5e-6
SWITCH_DOUBT_S = 20e-6
# Of a network's time, what the sum of its operations is uncertain by whatever a call costs.
NOISE = 0.02


@dataclass(frozen=True)
class Whole:
    """A network's time, that of its operations' kernels alone, and its calls of each kind."""

    measured_s: float
    kernels_s: float
    calls: Mapping[str, int]


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


def chain_overhead(threads: int, reference_s: float, kinds: Iterable[str]) -> dict[str, float]:
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
    chain = WholeNetwork("", network, inputs)
    session = Session([], threads, lambda done, total, what: None)
    for _ in range(CHAIN_REPEATS):
        session.time_turn(points, 3, (chain,))
    alone = sum(session.settled(point).median for point in points)
    return (settled(session.networks[""], threads).median - alone) / len(points)


def fitted_overhead(chains: Mapping[str, float], networks: Sequence[Whole]) -> dict[str, float]:
    """Return the overhead of each kind of call that explains the times of ``networks``, seconds.

    Bayesian linear regression: ``chains`` are the prior's means, ``DOUBT_S`` and ``SWITCH_DOUBT_S``
    its deviations, and every network is uncertain by ``NOISE`` of its time. Kinds that no network
    has keep their mean. A dense layer after a sparse one never gains by it: below 0, that would
    only be the kernels' own errors, and a search would take layers in turns to collect it.
    """
    kinds = sorted({*chains, *(kind for its in networks for kind in its.calls)})
    mean = np.array([chains.get(kind, 0.0) for kind in kinds])
    doubt = np.array([SWITCH_DOUBT_S if kind == DENSE_AFTER_SPARSE else DOUBT_S for kind in kinds])
    weight = np.array([1 / (NOISE * its.measured_s) for its in networks])
    calls = np.array([[its.calls.get(kind, 0) for kind in kinds] for its in networks])
    calls = calls.reshape(len(networks), len(kinds)) * weight[:, None]
    left = np.array([its.measured_s - its.kernels_s for its in networks]) * weight
    lowest = [0.0 if kind == DENSE_AFTER_SPARSE else -np.inf for kind in kinds]
    # In units of the prior's deviations, so that all columns are of one size.
    rows = np.concatenate([calls * doubt, np.eye(len(kinds))])
    found = lsq_linear(
        rows,
        np.concatenate([left, mean / doubt]),
        bounds=(np.array(lowest) / doubt, np.inf),
        method="bvls",
    )
    return dict(zip(kinds, (found.x * doubt).tolist(), strict=True))
