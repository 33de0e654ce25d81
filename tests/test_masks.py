"""Masks of ``torch.nn.utils.prune``: what others pruned as plans, and plans as masks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from amc import app, planned
from amc.errors import InputError
from amc.kernels.patterns import ZEROS, keep_largest
from amc.masks import load_masked, read_masked, width_and_pattern
from amc.plan_file import read_plan
from amc.pricing import structure_of
from amc.sparsify import layer_patterns
from amc.task import LoadedTask, load_task
from search_spaces.patterns import PatternSpace
from tests.test_network_cost import invented

LAYERS = {"layer1.0.conv1": ("2:4", None), "layer1.0.conv2": ("csr", 0.7), "fc": ("csr", 0.5)}


@pytest.fixture(scope="module")
def task() -> LoadedTask:
    return load_task("digits")


@pytest.fixture
def masked(task: LoadedTask) -> nn.Module:
    """Return the digits' network as somebody else would prune it."""
    network = copy.deepcopy(task.network)
    for name, (pattern, sparsity) in LAYERS.items():
        layer = network.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        mask = keep_largest(layer.weight.detach().contiguous(), pattern, sparsity) != 0
        torch_prune.custom_from_mask(layer, "weight", mask)
    return network


def config_with_table(task: LoadedTask, folder: Path) -> str:
    rungs = {name: {500: "2:4", 300: "csr"} for name in LAYERS}
    space = PatternSpace.with_rungs(task.network, task.inputs, rungs)
    invented(structure_of(task, space, 8)).save(folder / "table.json")
    config = folder / "config.yaml"
    config.write_text(
        "task: digits\nbudget: {macs: 0.5}\nagents: [uniform]\n"
        f"latency: {{target: {folder / 'table.json'}, batch_size: 8}}\n"
    )
    return str(config)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_masked_network_becomes_a_plan_with_its_weights(
    task: LoadedTask, masked: nn.Module, tmp_path: Path, suffix: str
) -> None:
    state = tmp_path / f"masked.{suffix}"
    if suffix == "pt":
        torch.save(masked.state_dict(), state)
    else:
        save_file({n: t.contiguous() for n, t in masked.state_dict().items()}, state)
    out = tmp_path / "plan.json"
    facts = app.import_masks(state, config_with_table(task, tmp_path), out)
    plan = read_plan(out)
    found = {layer: how.pattern for layer, how in layer_patterns(plan.plan).items()}
    assert found == {layer: pattern for layer, (pattern, _) in LAYERS.items()}
    assert facts["masked_layers"] == facts["sparse_layers"] == 3
    network = planned.build(plan, tmp_path, task)
    inputs = task.search[:20].inputs
    with torch.inference_mode():
        torch.testing.assert_close(network(*inputs), masked.eval()(*inputs))
    assert facts["params"] == sum(int(p.count_nonzero()) for p in network.parameters())
    *_, again = planned.accuracy(out, None, None)
    assert again["reproduced"] is True

    exported = tmp_path / "again.safetensors"
    assert app.apply(out, exported, masks=True)["packed"] is False
    written = load_file(exported)
    for name in LAYERS:
        before = masked.state_dict()[f"{name}.weight_mask"]
        assert torch.equal(written[f"{name}.weight_mask"] != 0, before != 0)
    twin = copy.deepcopy(task.network)
    for name in LAYERS:
        torch_prune.identity(twin.get_submodule(name), "weight")
    twin.load_state_dict(written)  # as anybody would who has torch alone
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(*inputs), network(*inputs))


def test_states_that_cannot_be_taken_over_are_refused(
    task: LoadedTask, masked: nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(InputError, match="is not a file"):
        read_masked(file)
    torch.save(task.network.state_dict(), file)
    with pytest.raises(InputError, match="has no mask"):
        read_masked(file)
    torch.save(masked, file)
    with pytest.raises(InputError, match="holds more than tensors by name|is not readable"):
        read_masked(file)
    file.write_bytes(b"no file of torch")
    with pytest.raises(InputError, match="is not readable|holds more"):
        read_masked(file)
    state = dict(masked.state_dict())
    for change, message in (
        ({"fc.weight_orig": None}, "the state masks 'fc', which is no layer"),
        ({"gone.weight_mask": torch.ones(2), "gone.weight_orig": torch.ones(2)}, "masks 'gone'"),
        ({"fc.weight_mask": torch.ones(1)}, r"fc.weight_mask has shape \(1,\)"),
        ({"fc.bias": torch.ones(3)}, "the state is not of this network"),
        ({"fc.bias_mask": torch.ones(3)}, "only masks of weights"),
        ({"fc.bias": torch.full((10,), torch.nan)}, "'fc.bias' is not finite"),
    ):
        changed: dict[str, Any] = {n: t for n, t in {**state, **change}.items() if t is not None}
        with pytest.raises(InputError, match=message):
            load_masked(copy.deepcopy(task.network), changed)


def test_masks_of_a_whole_network_may_keep_all_of_a_layer(task: LoadedTask, tmp_path: Path) -> None:
    # torch.nn.utils.prune takes weights in the default layout alone.
    network = copy.deepcopy(task.network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    layers = [(network.get_submodule(name), "weight") for name in LAYERS]
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=0.3003)
    full = network.get_submodule("fc")
    full.weight_mask.fill_(1)
    torch.save(network.state_dict(), tmp_path / "masked.pt")
    config = config_with_table(task, tmp_path)
    out = tmp_path / "a plan, named oddly.json"
    facts = app.import_masks(tmp_path / "masked.pt", config, out)
    assert (facts["masked_layers"], facts["sparse_layers"]) == (3, 2)
    assert Path(facts["weights"]).name == "a_plan__named_oddly.weights.safetensors"
    stored = sum(
        int(p.count_nonzero()) for p in planned.build(read_plan(out), tmp_path, task).parameters()
    )
    assert facts["params"] == pytest.approx(stored, rel=1e-3), "densities go by the thousandth"
    full.weight_mask.fill_(0)
    torch.save(network.state_dict(), tmp_path / "masked.pt")
    with pytest.raises(InputError, match="'fc' keeps none of its"):
        app.import_masks(tmp_path / "masked.pt", config, out)


@pytest.mark.parametrize("pattern", ZEROS)
def test_a_weights_pattern_is_found_in_its_zeros(pattern: str) -> None:
    weight = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    sparsity = {"2:4": 0.5, "1:4": 0.75}.get(pattern, 0.6)
    pruned = keep_largest(weight, pattern, sparsity)
    assert width_and_pattern(pruned) == (
        round(1000 * float((pruned != 0).double().mean())),
        "csr" if pattern == "csc" else pattern,
    )
    assert width_and_pattern(weight) is None
    assert width_and_pattern(torch.zeros_like(weight)) is None
