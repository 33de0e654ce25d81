"""Costs of sparse layers equal those of the network that is really built, packed and traced."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from amc.compress import realised, removed_blocks
from amc.deploy import deployed
from amc.error_curves import curves_of
from amc.kernels.modules import sparse_module
from amc.kernels.patterns import KERNEL_OF, STORED_AS, ZEROS, keep_largest
from amc.kernels.sizes import packed_bytes, stored_weights
from amc.latency import LatencyTable
from amc.latency.trace import trace_ops
from amc.network_cost import NetworkCostModel
from amc.pricing import structure_of
from amc.pruning import Pruner
from amc.sparsify import LayerPattern, layer_patterns, packed, prune
from amc.task import LoadedTask, load_task
from amc.training import Schedule
from amc.worker import Job, Start, Work, Worker, state_tensors
from search_spaces.mixed import MixedSpace
from tests.test_network_cost import invented

BATCH = 2


@cache
def mixed() -> tuple[LoadedTask, MixedSpace, NetworkCostModel, LatencyTable]:
    task = load_task("digits")
    space = MixedSpace.of(
        task.network,
        task.inputs,
        patterns=("2:4", "1:4", "csr", "4x1", "block"),
        sparsities=(0.3, 0.8),
    )
    structure = structure_of(task, space, BATCH)
    table = invented(structure)
    return task, space, NetworkCostModel(structure, table), table


def drawn(seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(rng.choice(site.widths)) for site in mixed()[1].sites]


def built(widths: list[int]) -> tuple[nn.Module, dict[str, LayerPattern]]:
    """Return the pruned network of a plan, and its patterns with the kernels that were priced."""
    task, space, model, _ = mixed()
    plan = space.plan(widths)
    network = realised(task.network, space.groups, plan)
    patterns = layer_patterns(plan)
    prune(network, patterns)
    kernels = model.kernels([site.width_of(plan.choices[site.name]) for site in space.sites])
    return network, {
        layer: LayerPattern(how.pattern, how.sparsity, kernels[f"{layer}.weight"])
        for layer, how in patterns.items()
    }


@pytest.mark.parametrize("seed", range(6))
def test_predicted_latency_is_that_of_what_the_packed_network_runs(seed: int) -> None:
    task, _, model, table = mixed()
    network, patterns = built(drawn(seed))
    inputs = task.batch(BATCH)
    ops = trace_ops(packed(deployed(network, inputs), patterns), inputs)
    kernels = {op.template.kernel for op in ops}
    assert len(kernels) > 1, "some layer is sparse"
    expected = table.network_latency(ops)
    costs = model.costs(np.array([drawn(seed)]))
    # Densities of small layers come out in whole weights, not in thousandths.
    assert costs["latency_s"][0] == pytest.approx(expected, rel=2e-3)
    lines = model.breakdown(drawn(seed))
    assert sum(line.latency_s for line in lines) == pytest.approx(costs["latency_s"][0])
    sparse = [line for line in lines if not line.kernel.startswith("dense") and line.latency_s]
    assert len(sparse) == sum(op.template.kernel != "dense" for op in ops)


def test_blocks_are_there_and_gone_among_the_plans_drawn() -> None:
    space = mixed()[1]
    assert space.blocks is not None
    gone = [len(removed_blocks(space.plan(drawn(seed)))) for seed in range(6)]
    assert len(set(gone)) > 1


def test_what_is_decided_of_layers_that_are_gone_does_not_count() -> None:
    task, space, model, _ = mixed()
    (block,) = [i for i, site in enumerate(space.sites) if site.decides == "block"][:1]
    name = space.sites[block].name
    inside = [
        i
        for i, site in enumerate(space.sites)
        if i != block and all(layer.startswith(f"{name}.") for layer in site.layers)
    ]
    assert {space.sites[i].decides for i in inside} == {"channels", "weights"}
    whole = [site.full for site in space.sites]
    whole[block] = 0
    narrow = [space.sites[i].widths[0] if i in inside else w for i, w in enumerate(whole)]
    assert space.plan(narrow) == space.plan(whole)
    costs = [model.costs(np.array([widths])) for widths in (narrow, whole)]
    assert all(costs[0][key][0] == costs[1][key][0] for key in costs[0])
    # What comes from a plan that had narrowed them has them as narrow as that, but not sparse.
    before = [
        space.sites[i].widths[0] if i in inside else s.full for i, s in enumerate(space.sites)
    ]
    parent = space.plan(before)
    child = space.plan(whole, dict(task.network.state_dict()), parent)
    for site in (space.sites[i] for i in inside):
        mine = child.choices[site.name]
        if site.decides == "channels":
            assert mine == parent.choices[site.name]
        else:
            assert mine.pattern == "dense" != parent.choices[site.name].pattern


def test_a_plan_may_drop_a_block_that_the_plan_before_had_made_sparse() -> None:
    task, space, _, _ = mixed()
    job = Job(
        task.network,
        space.groups,
        task.train[:60],
        task.train,
        task.search[:60],
        task.score,
        "none",
        Schedule(steps=2),
    )
    worker = Worker(job)
    before = [site.widths[0] if site.decides != "block" else 1 for site in space.sites]
    parent = space.plan(before)
    assert parent.choices["layer1.0.conv1.weight"].pattern != "dense"
    outcome = worker.run(Work(parent, None, 2, 0))
    assert outcome.state is not None
    without = [
        0 if site.name == "layer1.0" else w for site, w in zip(space.sites, before, strict=True)
    ]
    weights = state_tensors(outcome.state)
    child = space.plan(without, weights, parent)
    assert removed_blocks(child) == ["layer1.0"]
    assert np.isfinite(worker.run(Work(child, Start(parent, outcome.state), 2, 0)).score)
    # And once more, from weights that no longer have the block.
    state = worker.run(Work(child, Start(parent, outcome.state), 2, 0)).state
    assert state is not None
    assert not any(name.startswith("layer1.0.") for name in state)
    again = space.plan(without, state_tensors(state), child)
    assert np.isfinite(worker.run(Work(again, Start(child, state), 2, 0)).score)


def test_a_blocks_error_is_what_passing_its_input_on_changes() -> None:
    task, space, _, _ = mixed()
    curves, _ = curves_of(task.network, space, task.train[:40], "magnitude_l1")
    name = next(site.name for site in space.sites if site.decides == "block")
    seen: dict[str, torch.Tensor] = {}
    block = task.network.get_submodule(name)
    hook = block.register_forward_hook(lambda _, x, y: seen.update(given=x[0], output=y))
    with torch.inference_mode():
        task.network(*task.train[:40].inputs)
    hook.remove()
    parts = {"lost": seen["output"] - seen["given"], "power": seen["output"]}
    variances = {k: float(t.var(dim=(0, 2, 3), correction=0).sum()) for k, t in parts.items()}
    error = curves.sites[name].relative_error
    assert error[1] == 0
    assert error[0] == pytest.approx(min(1.0, variances["lost"] / variances["power"]), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_stored_weights_and_their_bytes_are_those_of_the_packed_network(seed: int) -> None:
    _, _, model, _ = mixed()
    network, patterns = built(drawn(seed))
    costs = model.costs(np.array([drawn(seed)]))
    assert costs["params"][0] == sum(int(p.count_nonzero()) for p in network.parameters())
    expected = 0
    for name, parameter in network.named_parameters():
        size = 4 * parameter.numel()
        how = patterns.get(name.removesuffix(".weight"))
        if how is not None and name.endswith(".weight"):
            layer = network.get_submodule(name.removesuffix(".weight"))
            sparse = sparse_module(layer, how.pattern, KERNEL_OF[how.pattern])
            size = min(size, sparse.packed.weight_bytes)
        expected += size
    assert costs["weight_bytes"][0] == expected


def test_a_layer_runs_on_the_fastest_kernel_that_the_table_knows() -> None:
    _, space, model, table = mixed()
    dense = [site.full for site in space.sites]
    fastest = set()
    for position, site in enumerate(space.sites):
        if site.decides != "weights":
            continue
        seconds = []
        for width in site.widths:
            widths = [*dense[:position], width, *dense[position + 1 :]]
            kernel = model.kernels(widths)[site.name]
            seconds.append(model.costs(np.array([widths]))["latency_s"][0])
            fastest.add(kernel)
            pattern = site.patterns.get(width)
            assert kernel in ("dense", *([KERNEL_OF[pattern]] if pattern else []))
        after = 1e-12 + table.call_overhead_s["dense_after_sparse"]
        assert max(seconds) <= seconds[-1] + after, "zeros make no layer slower by itself"
    assert {"dense", "nm", "csr"} <= fastest


@pytest.mark.parametrize("pattern", ZEROS)
@pytest.mark.parametrize("shape", [(16, 12, 3, 3), (10, 7, 1, 1), (12, 30), (64, 80, 3, 3)])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_sizes_are_those_of_packed_weights(
    pattern: str, shape: tuple[int, ...], density: float
) -> None:
    torch.manual_seed(0)
    sparsity = {"2:4": 0.5, "1:4": 0.75}.get(pattern, 1 - density)
    weight = keep_largest(torch.rand(shape) + 0.1, pattern, sparsity)
    layer: nn.Linear | nn.Conv2d = nn.Linear(shape[1], shape[0])
    if len(shape) == 4:
        layer = nn.Conv2d(shape[1], shape[0], shape[2])
    layer.weight = nn.Parameter(weight)
    size = shape[0], shape[1], shape[2:], sparsity
    stored, found = int(stored_weights(pattern, *size)), int(weight.count_nonzero())
    if pattern == "4x1" and shape[0] % 4:
        assert abs(found - stored) <= 2 * shape[1], "at most half a block a column beside"
    else:
        assert found == stored
    its = sparse_module(
        layer, STORED_AS.get(pattern, pattern), KERNEL_OF[STORED_AS.get(pattern, pattern)]
    )
    assert its.packed.weight_bytes == packed_bytes(pattern, *size)
    rows = stored_weights(
        pattern, np.array([shape[0], 8]), np.array([shape[1], 4]), shape[2:], sparsity
    )
    assert rows.tolist() == [stored, int(stored_weights(pattern, 8, 4, shape[2:], sparsity))]


@pytest.mark.parametrize("name", ["magnitude_l1", "wanda", "second_order", "taylor"])
def test_every_criterion_leaves_as_many_weights_as_were_priced(name: str) -> None:
    task, space, model, _ = mixed()
    pruner = Pruner(name, task.network, space.groups, task.train[:60])
    for seed in range(3):
        plan = space.plan(drawn(seed))
        network = realised(task.network, space.groups, plan)
        pruner.prune(network, plan)
        stored = sum(int(p.count_nonzero()) for p in network.parameters())
        assert model.costs(np.array([drawn(seed)]))["params"][0] == stored


def test_zeros_in_kernels_are_whole_rows_or_whole_kernels() -> None:
    weight = torch.rand(8, 6, 3, 3) + 0.1
    vectors = keep_largest(weight, "vector", 0.5).count_nonzero(dim=3)
    kernels = keep_largest(weight, "kernel", 0.5).flatten(2).count_nonzero(dim=2)
    assert set(vectors.unique().tolist()) == {0, 3}
    assert set(kernels.unique().tolist()) == {0, 9}
    best = weight.sum((2, 3)).flatten().argsort(descending=True)[:24]
    assert set(kernels.flatten().nonzero().flatten().tolist()) == set(best.tolist())


def test_weights_go_by_the_scores_that_are_given() -> None:
    weight, scores = torch.rand(4, 8), torch.rand(4, 8)
    kept = keep_largest(weight, "csr", 0.75, scores) != 0
    assert scores[kept].min() >= scores[~kept].max()
    halves = (keep_largest(weight, "2:4", None, scores) != 0).reshape(4, 2, 4)
    assert (halves.sum(2) == 2).all()
    grouped = scores.reshape(4, 2, 4)
    assert (
        torch.where(halves, grouped, 9).amin(2) >= torch.where(halves, 0, grouped).amax(2)
    ).all()


def test_a_dense_plan_is_as_dense_as_before() -> None:
    _, space, model, _ = mixed()
    plan = space.plan([site.full for site in space.sites])
    assert not layer_patterns(plan)
    assert model.kernels([site.full for site in space.sites]) == dict.fromkeys(
        (site.name for site in space.patterns.sites), "dense"
    )
