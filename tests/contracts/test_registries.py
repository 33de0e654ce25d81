"""What every zoo task, search space and kernel in the registries owes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from amc.compress import realised, removed_blocks
from amc.cost import BUDGET_KEYS, cheapest_widths, make_budget
from amc.data import Data
from amc.errors import InputError
from amc.kernels import KERNELS
from amc.network_cost import NetworkCostModel
from amc.plan import Plan
from amc.pricing import structure_of
from amc.registry import lookup
from amc.sparsify import layer_patterns, prune
from amc.task import LoadedTask, load_task
from amc.worker import score
from amc.zoo import ZOO
from search_spaces import SEARCH_SPACES
from tests.test_network_cost import invented


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def task_of(name: str) -> LoadedTask:
    return load_task(name)


def examples(data: Data) -> set[bytes]:
    return {row.numpy().tobytes() for row in data.inputs[0].contiguous()}


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_task_is_trained_and_its_splits_are_disjoint(name: str) -> None:
    task = task_of(name)
    assert score(task.network, task.search[:500], task.score) > 0.85
    assert task.test is not None
    train, search, test = (examples(data) for data in (task.train, task.search, task.test))
    assert not train & search
    assert not train & test
    assert not search & test


@cache
def space_of(name: str) -> tuple[Any, NetworkCostModel]:
    task = task_of("digits")
    space = lookup(SEARCH_SPACES, name, "space").of(task.network, task.inputs)
    structure = structure_of(task, space, 2)
    return space, NetworkCostModel(structure, invented(structure))


@pytest.mark.parametrize("name", SEARCH_SPACES)
def test_a_spaces_plans_are_legal_and_their_networks_run(name: str) -> None:
    task, (space, model) = task_of("digits"), space_of(name)
    rng = np.random.default_rng(0)
    dense = [site.full for site in space.sites]
    smallest = [site.widths[0] for site in space.sites]
    for widths in (dense, smallest, [int(rng.choice(site.widths)) for site in space.sites]):
        plan = space.plan(widths)
        assert plan == space.plan(widths)
        assert list(plan.choices) == [site.name for site in space.sites]
        gone = removed_blocks(plan)
        for site, width in zip(space.sites, widths, strict=True):
            choice = plan.choices[site.name]
            inside = [any(layer.startswith(f"{b}.") for b in gone) for layer in site.layers]
            if site.decides != "block" and all(inside):
                assert site.width_of(choice) == site.full, "it does not count"
                continue
            assert site.width_of(choice) == width
            assert plan.keep_ratios[site.name] == pytest.approx(width / site.full)
            assert set(choice.kept) <= set(range(site.channels))
            assert (choice.pattern == "dense") == (site.patterns.get(width) is None)
        assert Plan.from_json(plan.as_json()) == plan
        network = realised(task.network, space.groups, plan)
        prune(network, layer_patterns(plan))
        with torch.inference_mode():
            outputs = network(*task.search[:2].inputs)
        assert outputs.shape == (2, 10)
        assert bool(torch.isfinite(outputs).all())
        params = sum(int(p.count_nonzero()) for p in network.parameters())
        assert model.costs(np.array([widths]))["params"][0] == params
    with pytest.raises(InputError, match="is not legal"):
        space.plan([site.full + 1 for site in space.sites])


@pytest.mark.parametrize("key", BUDGET_KEYS)
@pytest.mark.parametrize("name", SEARCH_SPACES)
def test_a_spaces_budgets_are_fractions_of_dense(name: str, key: str) -> None:
    space, model = space_of(name)
    dense = model.costs(np.array([[site.full for site in space.sites]]))[BUDGET_KEYS[key]][0]
    assert make_budget(key, 1.0, model, space.sites).limit == dense
    cheapest = cheapest_widths(model, space.sites, BUDGET_KEYS[key])
    reach = model.costs(cheapest[None])[BUDGET_KEYS[key]][0] / dense
    assert 0 < reach < 1
    assert make_budget(key, reach, model, space.sites).limit == pytest.approx(reach * dense)
    with pytest.raises(InputError, match=f"budget.{key} .* below the smallest reachable"):
        make_budget(key, 0.99 * reach, model, space.sites)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_names_its_backend(name: str) -> None:
    kernel = lookup(KERNELS, name, "kernel")
    assert isinstance(kernel.backend(), str)
    assert kernel.backend()


def test_the_dense_kernel_runs_what_a_network_runs() -> None:
    kernel = lookup(KERNELS, "dense", "kernel")
    op = space_of("channel")[1].structure.ops[0]
    call, activations = kernel.prepare(op.template, op.dims)
    assert activations
    outputs = call()
    assert isinstance(outputs, torch.Tensor)
    assert torch.equal(outputs, call())
