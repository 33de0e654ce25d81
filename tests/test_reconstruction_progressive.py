"""Progressive reconstruction: each layer is the best fit to the dense one behind all before it."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from amc.compress import Kept, compress
from amc.data import Data
from amc.layers import is_depthwise
from amc.reconstruction import progressive
from amc.reconstruction.progressive import Progressive
from amc.reconstruction.rows import LAYERS, Layer
from search_spaces.channel import ChannelSpace
from tests.reconstruction_cases import (
    CASES,
    calls,
    case,
    gradient,
    kept_at,
    narrowed,
    outputs_kept,
    reconstructed,
    squared_error,
)


def fitted(network: nn.Module, data: Data, space: ChannelSpace, kept: Kept) -> nn.Module:
    solved = compress(network, space.groups, kept)
    Progressive(network, space.groups, data).apply(solved, kept)
    return solved


def check_optimal(network: nn.Module, data: Data, space: ChannelSpace, kept: Kept) -> int:
    """Check every layer that should be fitted, and count them."""
    solved = fitted(network, data, space, kept)
    sliced = dict(compress(network, space.groups, kept).named_modules())
    dense, own = calls(network, data), calls(solved, data)
    modules = dict(solved.named_modules())
    names = [name for name in dense if not is_depthwise(modules[name])]
    first = min(names.index(name) for name in narrowed(network, space, kept))
    for name in names[first:]:
        wanted = dense[name][1][:, outputs_kept(space, kept, name, dense[name][1].shape[1])]
        before = gradient(cast(Layer, sliced[name]), own[name][0], wanted)
        after = gradient(cast(Layer, modules[name]), own[name][0], wanted)
        assert float(after.norm()) < 1e-3 * float(before.norm())
    for name in names[:first]:
        assert torch.equal(modules[name].weight, cast(Layer, sliced[name]).weight)
    return len(names) - first


@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_the_best_fit_behind_those_before_it(name: str) -> None:
    network, data, space = case(name)
    assert check_optimal(network, data, space, kept_at(space, 0.6)) >= 2


def test_grouped_layers_that_lose_nothing_make_up_for_changed_inputs() -> None:
    network, data, space = case("grouped in a row")
    assert check_optimal(network, data, space, {"0": (0, 3)}) == 3


@pytest.mark.parametrize("name", ["3x3", "residual", "concatenated", "grouped in a row"])
def test_it_is_what_brute_force_comes_to(name: str) -> None:
    """Layer by layer: run the network anew, and solve on stored activations."""
    network, data, space = case(name)
    kept = kept_at(space, 0.5)
    solved = fitted(network, data, space, kept)
    slow = compress(network, space.groups, kept)
    dense = calls(network, data)
    names = list(dense)
    for name_ in names[min(names.index(n) for n in narrowed(network, space, kept)) :]:
        layer = cast(Layer, dict(slow.named_modules())[name_])
        seen = calls(slow, data)[name_][0]
        wanted = dense[name_][1][:, outputs_kept(space, kept, name_, dense[name_][1].shape[1])]
        exact = copy.deepcopy(layer).double()
        _lstsq(exact, seen.double(), wanted.double())
        layer.load_state_dict(exact.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(solved(*data.inputs), slow(*data.inputs), rtol=1e-3, atol=1e-3)


def _lstsq(layer: nn.Module, seen: Tensor, wanted: Tensor) -> None:
    """Set a layer's weights, output by output, from the outputs of unit weights."""
    parameters = list(layer.parameters())
    solutions = []
    for output in range(wanted.shape[1]):
        columns = []
        for parameter in parameters:
            for element in range(parameter[0].numel()):
                for other in parameters:
                    other.data.zero_()
                parameter.data[output].view(-1)[element] = 1
                with torch.no_grad():
                    columns.append(layer(seen)[:, output].flatten())
        targets = wanted[:, output].flatten()[:, None]
        solved = torch.linalg.lstsq(torch.stack(columns, 1), targets, driver="gelsd").solution
        solutions.append(solved[:, 0])
    weights = torch.stack(solutions)
    for parameter in parameters:
        count = parameter[0].numel()
        parameter.data = weights[:, :count].reshape(parameter.shape).contiguous()
        weights = weights[:, count:]


@pytest.mark.parametrize("name", ["residual", "1d", "concatenated"])
def test_passes_that_stop_early_come_to_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, data, space = case(name)
    kept = kept_at(space, 0.6)
    at_once = fitted(network, data, space, kept)
    monkeypatch.setattr(progressive, "PASS_BYTES", 5_000)
    prepared = Progressive(network, space.groups, data)
    assert len(prepared._batches) > 3
    parts = compress(network, space.groups, kept)
    prepared.apply(parts, kept)
    with torch.no_grad():
        torch.testing.assert_close(at_once(*data.inputs), parts(*data.inputs), rtol=1e-3, atol=1e-3)


def test_it_is_closer_to_the_dense_network_than_least_squares() -> None:
    network, data, space = case("residual")
    kept = kept_at(space, 0.5)
    sliced, independent = reconstructed(network, data, space, kept)
    with torch.no_grad():
        dense = network(*data.inputs)
    errors = [
        squared_error(net, data.inputs[0], dense)
        for net in (fitted(network, data, space, kept), independent, sliced)
    ]
    assert errors == sorted(errors)


def test_the_whole_network_stays_as_it_is() -> None:
    network, data, space = case("residual")
    kept = kept_at(space, 1.0)
    solved = fitted(network, data, space, kept)
    assert all(torch.equal(t, solved.state_dict()[n]) for n, t in network.state_dict().items())
    assert not any(
        module._forward_pre_hooks or module._forward_hooks
        for net in (network, solved)
        for module in net.modules()
        if isinstance(module, LAYERS)
    )


def test_dependent_inputs_are_told() -> None:
    network, data, space = case("3x3")
    prepared = Progressive(network, space.groups, data)
    assert not prepared.notes  # nothing was fitted yet
    kept = kept_at(space, 0.5)
    prepared.apply(compress(network, space.groups, kept), kept)
    (note,) = prepared.notes  # the last layer has more columns than there are examples
    assert "columns are linearly dependent" in note
    assert "inputs of 5 (" in note
    assert "towards the weights as they were" in note


def test_layers_that_are_too_wide_are_left_alone_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    network, data, space = case("3x3")
    monkeypatch.setattr(progressive, "MAX_COLUMNS", 600)
    prepared = Progressive(network, space.groups, data)
    assert prepared.notes == ("layers 5 have more than 600 columns and are not fitted",)
