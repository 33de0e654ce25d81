"""Least squares from second moments is what least squares on stored activations is."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.compress import compress
from amc.reconstruction import moments, rows
from amc.reconstruction.consumers import consumers_of
from amc.reconstruction.least_squares import LeastSquares
from amc.reconstruction.moments import Moments, gather
from amc.reconstruction.rows import (
    Layer,
    output_rows,
    row_chunks,
    set_weight_matrix,
    weight_matrix,
)
from amc.reconstruction.solve import Factor, fit, regularised, solve
from tests.reconstruction_cases import (
    CASES,
    calls,
    case,
    gradient,
    kept_at,
    least_squares,
    narrowed,
    outputs_kept,
    reconstructed,
    squared_error,
)

LAYER_KINDS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(6, 4, 3, 2, 2, 2), (6, 11)),
    "conv2d": (nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 0), bias=False), (6, 9, 8)),
    "conv3d": (nn.Conv3d(2, 4, (2, 3, 1), padding=(0, 1, 0)), (2, 5, 4, 3)),
    "grouped": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (6, 7, 7)),
    "depthwise": (nn.Conv2d(6, 12, 3, dilation=2, groups=6, bias=False), (6, 7, 7)),
    "same": (
        nn.Conv2d(6, 4, (2, 4), padding="same", dilation=(1, 2), padding_mode="replicate"),
        (6, 7, 7),
    ),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), (6, 7, 7)),
    "circular": (nn.Conv2d(6, 4, 3, padding=2, padding_mode="circular"), (6, 7, 7)),
    "linear": (nn.Linear(6, 4), (6,)),
    "tokens": (nn.Linear(6, 4, bias=False), (5, 6)),
}


@pytest.mark.parametrize("kind", LAYER_KINDS)
@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("values", [1, 400, 2_000_000])
def test_rows_times_weights_are_the_outputs(
    kind: str, most: int | None, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHUNK_VALUES", values)
    layer, shape = LAYER_KINDS[kind]
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    chunks = list(row_chunks(layer, inputs, most))
    assert all(c.numel() <= max(values, c.shape[0] * c.shape[2]) for c in chunks)
    with torch.no_grad():
        expected = output_rows(layer, layer(inputs), most)
    got = (torch.cat(chunks, 1) @ weight_matrix(layer).mT).movedim(0, 1).flatten(1)
    torch.testing.assert_close(got, expected.double(), rtol=1e-5, atol=1e-5)
    assert len(expected) == (len(expected) if most is None else min(5 * most, len(expected)))
    again = copy.deepcopy(layer)
    nn.init.zeros_(again.weight)
    set_weight_matrix(again, weight_matrix(layer))
    assert torch.equal(again.weight, layer.weight)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_no_other_weights_do_better(name: str, share: float) -> None:
    """The squared error's gradient is 0 at the solution, so it is the least: it is convex."""
    network, data, space = case(name)
    kept = kept_at(space, share)
    sliced, solved = (dict(n.named_modules()) for n in reconstructed(network, data, space, kept))
    dense, inputs = calls(network, data), narrowed(network, space, kept)
    assert inputs
    for layer, stay in inputs.items():
        out = outputs_kept(space, kept, layer, dense[layer][1].shape[1])
        seen, wanted = dense[layer][0][:, stay], dense[layer][1][:, out]
        before = gradient(cast(Layer, sliced[layer]), seen, wanted)
        after = gradient(cast(Layer, solved[layer]), seen, wanted)
        assert float(after.norm()) < 1e-4 * float(before.norm())
        error = squared_error(solved[layer], seen, wanted)
        assert error < 0.98 * squared_error(sliced[layer], seen, wanted)


@pytest.mark.parametrize(("name", "layer"), [("1x1", "2"), ("3x3", "2"), ("linear", "4")])
def test_weights_are_those_of_lstsq_on_stored_activations(name: str, layer: str) -> None:
    network, data, space = case(name)
    kept = kept_at(space, 0.5)
    _, solved = reconstructed(network, data, space, kept)
    module = cast(Layer, dict(solved.named_modules())[layer])
    seen, wanted = calls(network, data)[layer]
    seen = seen[:, narrowed(network, space, kept)[layer]]
    wanted = wanted[:, outputs_kept(space, kept, layer, wanted.shape[1])]
    if seen.dim() > 2:
        columns = F.unfold(seen, module.weight.shape[2], padding=(module.weight.shape[2] - 1) // 2)
        seen, wanted = columns.movedim(1, -1).flatten(0, 1), wanted.movedim(1, -1).flatten(0, 2)
    if module.bias is not None:
        seen = torch.cat([seen, torch.ones(len(seen), 1)], 1)
    expected = torch.linalg.lstsq(seen.double(), wanted.double()).solution.T
    got = module.weight.detach().flatten(1)
    torch.testing.assert_close(got, expected[:, : got.shape[1]].float(), rtol=1e-3, atol=1e-4)
    if module.bias is not None:
        torch.testing.assert_close(
            module.bias.detach(), expected[:, -1].float(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("name", ["3x3", "linear", "residual", "grouped"])
def test_one_factor_gives_every_width(name: str) -> None:
    network, data, space = case(name)
    orders = space.orders
    found = consumers_of(network, space.groups)
    gathered = gather(network, {n: c.layer for n, c in found.items()}, data)
    for layer, consumer in found.items():
        group = consumer.only_group
        assert group is not None
        gram, weight = regularised(gathered[layer].gram), weight_matrix(consumer.layer)
        order, counts = consumer.order(group, orders[group])
        factor = Factor.of(gram, weight, order)
        outputs = torch.arange(weight.shape[1])
        for count in counts[1:].tolist():
            direct = solve(gram, weight, order[:count].sort().values)
            torch.testing.assert_close(factor.solve(count, outputs), direct, rtol=1e-4, atol=1e-6)


def test_other_channels_than_the_first_are_solved_directly() -> None:
    network, data, space = case("3x3")
    kept = {"0": (0, 3, 4, 7, 9)}
    prepared = least_squares(network, data, space)
    unordered = LeastSquares(network, space.groups, {}, data)
    for one in (prepared, unordered, unordered):
        solved = compress(network, space.groups, kept)
        one.apply(solved, kept)
        layer = cast(Layer, dict(solved.named_modules())["2"])
        seen, wanted = calls(network, data)["2"]
        assert float(gradient(layer, seen[:, list(kept["0"])], wanted).norm()) < 1e-3 * float(
            wanted.norm()
        )


@pytest.mark.parametrize("ordered", [True, False])
def test_each_group_of_a_grouped_layer_has_the_weights_of_lstsq(ordered: bool) -> None:
    network, data, space = case("grouped")
    kept = {"0": (0, 2, 5), "2": (1, 2, 3)}  # of 6 units and 4, each a channel of both groups
    orders = {"0": (2, 5, 0, 1, 3, 4), "2": tuple(range(4))} if ordered else {}
    solved = compress(network, space.groups, kept)
    LeastSquares(network, space.groups, orders, data).apply(solved, kept)
    layer = cast(nn.Conv2d, solved.get_submodule("2"))
    assert (layer.in_channels, layer.out_channels, layer.groups) == (6, 6, 2)
    assert layer.bias is not None
    seen, wanted = calls(network, data)["2"]
    for group in range(2):
        inputs = seen[:, [6 * group + c for c in kept["0"]]]
        columns = F.unfold(inputs, 3, padding=1).movedim(1, -1).flatten(0, 1).double()
        columns = torch.cat([columns, torch.ones(len(columns), 1).double()], 1)
        outputs = wanted[:, [4 * group + c for c in kept["2"]]].movedim(1, -1).flatten(0, 2)
        expected = torch.linalg.lstsq(columns, outputs.double()).solution.T.float()
        own = slice(3 * group, 3 * group + 3)
        got = torch.cat([layer.weight[own].flatten(1), layer.bias[own, None]], 1).detach()
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_curves_are_the_measured_errors(name: str) -> None:
    network, data, space = case(name)
    curves = least_squares(network, data, space).curves()
    dense = calls(network, data)
    assert set(curves.sites) == {site.name for site in space.sites}
    for site in space.sites:
        curve = curves.sites[site.name]
        assert curve.relative_error.shape == (site.channels + 1,)
        assert (curve.relative_error[1:] <= curve.relative_error[:-1] + 1e-12).all()
        assert curves.at(site.name, site.channels) == 0
        for width in site.widths[:-1:3]:
            widths = [width if one is site else one.channels for one in space.sites]
            kept = {site.name: space.plan(widths).choices[site.name].kept}
            _, solved = reconstructed(network, data, space, kept)
            left = power = 0.0
            for layer, stay in narrowed(network, space, kept).items():
                seen, wanted = dense[layer][0][:, stay], dense[layer][1]
                module = dict(solved.named_modules())[layer]
                error = squared_error(module, seen, wanted)
                about = wanted.double()
                if getattr(module, "bias", None) is not None:
                    dims = [d for d in range(about.dim()) if d != 1]
                    about = about - about.mean(dims, keepdim=True)
                own = float(about.square().sum())
                assert curve.layers[layer][width] == pytest.approx(error / own, rel=1e-3, abs=1e-5)
                left, power = left + error, power + own
            assert curves.at(site.name, width) == pytest.approx(left / power, rel=1e-3, abs=1e-5)


def test_dependent_and_silent_channels_have_a_solution_and_are_told() -> None:
    network, data, space = case("3x3")
    first, second = network[0], network[2]  # type: ignore[index]
    with torch.no_grad():
        first.weight[1], first.bias[1] = first.weight[0], first.bias[0]  # one channel twice
        first.weight[2], first.bias[2] = 0.0, -1.0  # silent after ReLU
        second.weight[:, 0] *= 10  # its importance is high, so that both copies may stay
        second.weight[:, 1] *= 10
    prepared = least_squares(network, data, space)
    assert any("layers" not in note and "linearly dependent" in note for note in prepared.notes)
    assert "of each column's power" in prepared.notes[0]
    for kept in ({"0": (0, 1, 2, 5)}, {"0": (1, 2, 6)}, {"0": tuple(range(11))}):
        solved = compress(network, space.groups, kept)
        prepared.apply(solved, kept)
        weight = dict(solved.named_parameters())["2.weight"]
        assert bool(torch.isfinite(weight).all())
        assert float(weight.detach().abs().max()) < 100 * float(second.weight.detach().abs().max())


def test_fewer_rows_than_columns_have_a_solution() -> None:
    network, data, space = case("linear")
    few = data[:5]
    prepared = least_squares(network, few, space)
    assert "5 rows" in prepared.notes[0]
    kept = kept_at(space, 0.7)
    solved = compress(network, space.groups, kept)
    prepared.apply(solved, kept)
    seen, wanted = calls(network, few)["4"]
    seen = seen[:, narrowed(network, space, kept)["4"]]
    wanted = wanted[:, outputs_kept(space, kept, "4", 8)]
    error = squared_error(dict(solved.named_modules())["4"], seen, wanted)
    assert error < 1e-6 * float(wanted.double().square().sum())


def test_what_the_inputs_do_not_say_stays_as_it_was() -> None:
    torch.manual_seed(0)
    rows_ = torch.randn(1, 50, 4, dtype=torch.float64)
    rows_[..., 2] = 0
    rows_[..., 3] = rows_[..., 0]
    prior = torch.randn(1, 2, 4, dtype=torch.float64)
    wanted = rows_ @ torch.randn(1, 4, 2, dtype=torch.float64)
    fitted, dependent = fit(rows_.mT @ rows_, rows_.mT @ wanted, prior)
    torch.testing.assert_close(rows_ @ fitted.mT, wanted, rtol=1e-5, atol=1e-5)
    assert dependent == 1  # the one that repeats another
    change = fitted - prior
    torch.testing.assert_close(change[..., 2], torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(change[..., 3], change[..., 0], rtol=1e-5, atol=1e-6)
    broken = torch.full((1, 4, 4), torch.inf, dtype=torch.float64)
    unchanged, undecided = fit(broken, rows_.mT @ wanted, prior)
    assert torch.equal(unchanged, prior)
    assert undecided == broken.shape[-1]


def test_what_keeps_its_inputs_keeps_its_weights() -> None:
    network, data, space = case("residual")
    kept = {"inner": (0, 1, 2)}
    solved = compress(network, space.groups, kept)
    least_squares(network, data, space).apply(solved, kept)
    dense, ours = network.state_dict(), solved.state_dict()
    changed = {
        n for n in ours if ours[n].shape != dense[n].shape or not torch.equal(ours[n], dense[n])
    }
    assert changed == {"inner.weight", "inner.bias", "outer.weight"}


def test_layers_that_are_too_wide_are_left_alone_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from amc.reconstruction import least_squares as module

    network, data, space = case("3x3")
    monkeypatch.setattr(module, "MAX_COLUMNS", 600)
    prepared = least_squares(network, data, space)
    assert prepared.notes == ("layers 5 have more than 600 columns and are not reconstructed",)
    kept = kept_at(space, 0.5)
    sliced, solved = compress(network, space.groups, kept), compress(network, space.groups, kept)
    prepared.apply(solved, kept)
    before, after = sliced.state_dict(), solved.state_dict()
    assert torch.equal(before["5.weight"], after["5.weight"])
    assert not torch.equal(before["2.weight"], after["2.weight"])


def test_gathering_holds_one_chunk_of_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, data, space = case("3x3")
    layers = {n: c.layer for n, c in consumers_of(network, space.groups).items()}
    whole = gather(network, layers, data)
    monkeypatch.setattr(rows, "CHUNK_VALUES", 2000)
    monkeypatch.setattr(moments, "BATCH", 7)
    sizes: list[int] = []
    add = Moments.add

    def watched(self: Moments, part: Tensor) -> None:
        sizes.append(part.numel())
        add(self, part)

    monkeypatch.setattr(Moments, "add", watched)
    chunked = gather(network, layers, data)
    assert max(sizes) <= 2000
    assert len(sizes) > 100
    for name, one in whole.items():
        assert one.rows == chunked[name].rows
        torch.testing.assert_close(one.gram, chunked[name].gram, rtol=1e-6, atol=1e-4)
        assert torch.equal(one.gram, one.gram.mT)


def test_rows_of_large_layers_are_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    network, data, space = case("3x3")
    layers = {n: c.layer for n, c in consumers_of(network, space.groups).items()}
    monkeypatch.setattr(moments, "MAX_ROWS", 20 * len(data))
    sampled = gather(network, layers, data)
    assert {name: one.rows for name, one in sampled.items()} == {
        "2": 20 * len(data),
        "5": len(data),
    }
    again = gather(network, layers, data)
    assert all(torch.equal(one.gram, again[name].gram) for name, one in sampled.items())
