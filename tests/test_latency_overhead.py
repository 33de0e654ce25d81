"""What calls cost inside a network, and the memory that operations of a turn share."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from amc.deploy import deployed
from amc.kernels.arena import ALIVE, Arena
from amc.latency.calls import DENSE_AFTER_SPARSE, counted
from amc.latency.measure import Networks, measure_table
from amc.latency.ops import OpCall, Operand, OpTemplate
from amc.latency.overhead import Whole, fitted_overhead
from amc.latency.sampling import KernelRequest
from amc.latency.session import WholeNetwork, prepare
from amc.latency.trace import network_latency, trace_ops
from amc.sparsify import LayerPattern, sparsified

INPUTS = (torch.rand(2, 8, 6, 6).to(memory_format=torch.channels_last),)
COSTS = {"layer": 6e-6, "function": 1e-6, "sparse": 9e-6, DENSE_AFTER_SPARSE: 30e-6}


def ops_of(network: nn.Module) -> list[OpCall]:
    return trace_ops(network, INPUTS)


def chain() -> nn.Module:
    layers = [nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)]
    return deployed(nn.Sequential(*layers), INPUTS)


def mixed() -> nn.Module:
    return sparsified(chain(), {"0": LayerPattern("2:4")})


def test_a_dense_layer_right_after_a_sparse_one_is_counted() -> None:
    kinds = ["sparse", "function", "layer", "layer", "sparse", "sparse", "function", "layer"]
    assert counted(kinds) == {"sparse": 3, "layer": 3, "function": 2, DENSE_AFTER_SPARSE: 2}
    assert counted(["layer", "function", "layer"])[DENSE_AFTER_SPARSE] == 0


def test_networks_that_agree_decide_what_calls_cost() -> None:
    rng = np.random.default_rng(0)
    networks = []
    for _ in range(200):
        calls = Counter({kind: int(rng.integers(0, 30)) for kind in COSTS})
        called = sum(COSTS[kind] * n for kind, n in calls.items())
        networks.append(Whole(1e-3 + called, 1e-3, calls))
    chains = {"layer": 3e-6, "function": 0.0, "sparse": 5e-6}
    fitted = fitted_overhead(chains, networks)
    for kind, cost in COSTS.items():
        assert fitted[kind] == pytest.approx(cost, abs=0.5e-6), kind


def test_no_layer_is_faster_for_what_ran_before_it() -> None:
    networks = []
    for switches in (0, 5, 10):  # networks that seem to gain 40 us by each
        calls = Counter({"layer": 20, "sparse": 10, DENSE_AFTER_SPARSE: switches})
        networks.append(Whole(3e-3 - 40e-6 * switches, 3e-3, calls))
    fitted = fitted_overhead({"layer": 3e-6, "sparse": 5e-6}, networks)
    assert fitted[DENSE_AFTER_SPARSE] == 0
    assert fitted["sparse"] < 5e-6, "what is left is the other kinds'"
    once_negative = {**fitted, DENSE_AFTER_SPARSE: -40e-6}
    assert fitted_overhead(once_negative, networks)[DENSE_AFTER_SPARSE] == 0


def test_without_networks_the_chains_decide() -> None:
    chains = {"layer": 3e-6, "function": -1e-6}
    assert fitted_overhead(chains, []) == pytest.approx(chains)


def test_one_network_hardly_moves_what_it_cannot_tell() -> None:
    chains = {"layer": 3e-6, "function": 0.0}
    slow = Whole(2e-3, 1e-3, Counter({"layer": 2}))  # 500 us a call: not to be believed
    fitted = fitted_overhead(chains, [slow])
    assert 3e-6 < fitted["layer"] < 60e-6
    assert fitted["function"] == pytest.approx(0.0, abs=1e-12)


def test_predictions_of_networks_count_the_switch_and_the_table_keeps_it() -> None:
    network = mixed()
    requests = [
        KernelRequest(op.template, tuple((width,) for width in op.dims), (i,))
        for i, op in enumerate([*ops_of(network), *ops_of(chain())])
    ]
    unique = list({request.template.key: request for request in requests}.values())
    whole = [WholeNetwork("dense", chain(), INPUTS)]
    others = [WholeNetwork("m", network, INPUTS)]
    table = measure_table(unique, 1, networks=Networks(whole, lambda: others))
    assert set(table.call_overhead_s) == {"layer", "function", "sparse", DENSE_AFTER_SPARSE}
    assert set(table.networks) == {"dense"}
    parts = sum(table.latency(op) for op in ops_of(network))
    switch_s = table.call_overhead_s[DENSE_AFTER_SPARSE]
    assert network_latency(network, INPUTS, table) == pytest.approx(parts + switch_s, rel=1e-9)
    own = [op.template.call_kind for op in ops_of(network)]
    assert counted(own)[DENSE_AFTER_SPARSE] == 1


def test_operations_share_memory_and_neighbours_do_not() -> None:
    calls = ops_of(chain())
    arena = Arena((op.template, op.dims) for op in calls)
    places = []
    for op in calls:
        _, (x,) = prepare(op.template, op.dims, arena)
        places.append(x.untyped_storage().data_ptr())
        assert list(x.shape) == op.template.args[0].shape_at(op.dims)
    assert len(set(places)) == ALIVE
    assert all(a != b for a, b in pairwise(places))


def test_what_works_in_place_has_memory_of_its_own() -> None:
    x = Operand((2, 8), (0, 1), "float32", False)
    outside, inside = (OpTemplate(f"aten.{op}.default", (x,), (), ()) for op in ("relu", "relu_"))
    arena = Arena([(outside, ()), (inside, ())])
    _, (shared,) = prepare(outside, (), arena)
    before = shared.clone()
    call, (own,) = prepare(inside, (), arena)
    call()
    assert own.untyped_storage().data_ptr() != shared.untyped_storage().data_ptr()
    assert torch.equal(shared, before)
