"""Criteria against closed forms, and against the ablation of every weight, on small layers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.criteria import CRITERIA
from amc.criteria.base import Criterion, LayerView, Zeros
from amc.criteria.chosen import of_channels, of_weights
from amc.data import Data
from amc.errors import InputError
from amc.kernels.patterns import first_violation, keep_largest
from amc.layer_statistics import Statistics
from amc.registry import lookup
from search_spaces.channel import ChannelSpace
from search_spaces.nm import NMSpace
from tests.networks import ResNeXt

WITH_WEIGHTS = [name for name in CRITERIA if not lookup(CRITERIA, name, "").of_weights]


class Net(nn.Module):
    """A convolution, BatchNorm and two linear layers: ``[N, 6, 5, 5] -> [N, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.head(F.relu(self.hidden(x)))  # type: ignore[no-any-return]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = Net().eval()
    with torch.no_grad():
        network.bn.weight.copy_(torch.rand(8) + 0.1)
    return network


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(60, 6, 5, 5, generator=generator)
    images[:, 1] += 0.7 * images[:, 0]  # correlated inputs, which magnitudes know nothing of
    return Data(images, torch.randint(3, (60,), generator=generator))


def views(network: nn.Module, data: Data, layer: str, criterion: Criterion) -> LayerView:
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return Statistics(network, data).view(layer, weight.detach(), criterion.needs)


def rows_of(network: nn.Module, data: Data, layer: str) -> Tensor:
    """Return the input rows of a layer, float64, columns ordered by position, then channel."""
    seen: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        network(*data.inputs)
    hook.remove()
    x = seen[0].double()
    if x.dim() == 2:
        return x
    taps = F.unfold(x, 3)  # [N, channels * taps, places], channels first
    by_position: Tensor = taps.unflatten(1, (x.shape[1], 9)).transpose(1, 2).flatten(1, 2)
    return by_position.mT.flatten(0, 1)


def as_columns(weight: Tensor) -> Tensor:
    flat = weight.double().flatten(2) if weight.dim() > 2 else weight.double()[..., None]
    return flat.transpose(1, 2).flatten(1)


def error(network: nn.Module, data: Data, layer: str, pruned: Tensor) -> float:
    """Return the mean squared error of a layer's outputs, relative to their power."""
    dense = network.get_submodule(layer).weight
    assert isinstance(dense, Tensor)
    x, dense = rows_of(network, data, layer), dense.detach()
    lost = x @ (as_columns(dense) - as_columns(pruned)).T
    return float(lost.square().sum() / (x @ as_columns(dense).T).square().sum())


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_channels_or_weights(name: str) -> None:
    criterion: Criterion = lookup(CRITERIA, name, "")
    assert criterion.scores.__doc__
    assert not (criterion.of_channels and criterion.of_weights)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
@pytest.mark.parametrize("layer", ["conv", "hidden"])
def test_scores_are_not_negative_and_0_for_weights_of_0(
    name: str, layer: str, network: nn.Module, data: Data
) -> None:
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    weight.data[0] = 0.0
    criterion = of_weights(name)
    scores = criterion.scores(views(network, data, layer, criterion))
    assert scores.shape == weight.shape
    assert scores.dtype == torch.float64
    assert bool((scores >= 0).all())
    assert not scores[0].any()
    assert bool(scores[1:].any())


def test_moments_are_those_of_the_input_rows(network: nn.Module, data: Data) -> None:
    for layer in ("conv", "hidden", "head"):
        x = rows_of(network, data, layer)
        view = views(network, data, layer, of_weights("wanda"))
        torch.testing.assert_close(view.moments, x.T @ x / len(x), atol=1e-9, rtol=1e-6)


def test_statistics_of_a_narrower_layer_are_parts_of_the_dense_ones(
    network: nn.Module, data: Data
) -> None:
    statistics = Statistics(network, data)
    conv = network.get_submodule("conv").weight
    assert isinstance(conv, Tensor)
    outputs, inputs = torch.tensor([1, 4]), torch.tensor([1])
    weight = conv.detach()[outputs][:, inputs]
    view = statistics.view("conv", weight, {"moments", "gradient_squares"}, outputs, inputs)
    x = rows_of(network, data, "conv")[:, 1::6]
    torch.testing.assert_close(view.moments, x.T @ x / len(x), atol=1e-9, rtol=1e-6)
    whole = statistics.view("conv", conv.detach(), {"gradient_squares"}).gradient_squares
    assert whole is not None
    assert view.gradient_squares is not None
    assert torch.equal(view.gradient_squares, whole[outputs][:, inputs])


def test_wanda_is_magnitude_times_the_inputs_norm(network: nn.Module, data: Data) -> None:
    criterion = of_weights("wanda")
    view = views(network, data, "conv", criterion)
    norms = rows_of(network, data, "conv").square().mean(0).sqrt()
    expected = as_columns(view.weight).abs() * norms
    torch.testing.assert_close(as_columns(criterion.scores(view)), expected, atol=1e-7, rtol=1e-5)


def test_taylor_is_the_squared_first_order_change_of_the_loss(
    network: nn.Module, data: Data
) -> None:
    criterion = of_weights("taylor")
    scores = criterion.scores(views(network, data, "head", criterion))
    weight = network.get_submodule("head").weight
    assert isinstance(weight, Tensor)
    assert data.labels is not None
    step = 1e-3
    for row, column in ((0, 0), (1, 5), (2, 11)):
        value = weight[row, column].item()
        losses = []
        for scale in (1 - step, 1 + step):
            weight.data[row, column] = value * scale
            with torch.no_grad():
                losses.append(float(F.cross_entropy(network(*data.inputs).double(), data.labels)))
        weight.data[row, column] = value
        change = (losses[1] - losses[0]) / (2 * step)
        assert float(scores[row, column]) == pytest.approx(change**2, rel=0.02, abs=1e-9)


def test_saliency_is_the_error_of_the_best_adjusted_rest(network: nn.Module, data: Data) -> None:
    criterion = of_weights("second_order")
    view = views(network, data, "hidden", criterion)
    scores = criterion.scores(view)
    assert view.moments is not None
    damped = view.moments + 0.01 * view.moments.diagonal().mean() * torch.eye(8)
    for row, column in ((0, 0), (3, 5), (11, 7)):
        others = [j for j in range(8) if j != column]
        gone = float(view.weight[row, column])
        block, cross = damped[others][:, others], damped[others, column]
        adjusted = gone * torch.linalg.solve(block, cross)
        left = torch.zeros(8, dtype=torch.float64)
        left[column], left[others] = gone, -adjusted
        assert float(scores[row, column]) == pytest.approx(float(left @ damped @ left))


@pytest.mark.parametrize("pattern", ["csr", "2:4", "1:4", "4x1", "vector", "kernel"])
@pytest.mark.parametrize("layer", ["conv", "hidden"])
def test_second_order_loses_least_and_has_the_zeros(
    pattern: str, layer: str, network: nn.Module, data: Data
) -> None:
    sparsity = {"1:4": 0.75}.get(pattern, 0.5)
    criterion = of_weights("second_order")
    view = views(network, data, layer, criterion)
    assert criterion.prune is not None
    pruned = criterion.prune(view, Zeros(pattern, sparsity)).float()
    assert first_violation(pruned, pattern) is None
    masked = torch.where(pruned != 0, view.weight, 0)
    plain = keep_largest(view.weight, pattern, sparsity, within_rows=True)
    assert int(pruned.count_nonzero()) == pytest.approx(int(plain.count_nonzero()), abs=4)
    same = torch.where(keep_largest(pruned, pattern, sparsity) != 0, pruned, 0)
    assert torch.equal(same, pruned), "the zeros are in the pattern's own units"
    after = error(network, data, layer, pruned)
    assert after < error(network, data, layer, masked), "adjusting helps"
    assert after < error(network, data, layer, plain)


def test_second_order_on_two_columns_is_the_closed_form() -> None:
    moments = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=torch.float64)
    view = LayerView(torch.tensor([[1.0, 0.4], [0.1, 3.0]]), moments)
    criterion = of_weights("second_order")
    assert criterion.prune is not None
    pruned = criterion.prune(view, Zeros("csr", 0.5))
    damping = 0.01 * 1.5
    # Row 0 keeps its first weight, which was reached before: it cannot be adjusted any more.
    assert pruned[0].tolist() == [1.0, 0.0]
    # Row 1 loses its first, and the second takes over what they have in common.
    assert pruned[1].tolist() == pytest.approx([0.0, 3.0 + 0.1 * 1.2 / (1.0 + damping)])


def test_unstructured_criteria_that_say_so_compare_within_rows(
    network: nn.Module, data: Data
) -> None:
    for name in WITH_WEIGHTS:
        criterion = of_weights(name)
        if not criterion.within_rows:
            continue
        view = views(network, data, "hidden", criterion)
        pruned = keep_largest(
            view.weight, "csr", 0.25, criterion.scores(view).float(), within_rows=True
        )
        assert set(pruned.count_nonzero(dim=1).tolist()) == {6}
        odd = keep_largest(view.weight, "csr", 0.3, within_rows=True).count_nonzero(dim=1)
        assert odd.sum() == view.weight.numel() - round(0.3 * view.weight.numel())
        assert odd.max() - odd.min() == 1


@pytest.mark.parametrize("name", CRITERIA)
def test_channels_follow_the_sum_of_their_weights_scores(
    name: str, network: nn.Module, data: Data
) -> None:
    criterion = of_channels(name)
    exclude = ["hidden"] if criterion.side == "passes" else []
    inputs = (data.inputs[0][:1],)
    space = ChannelSpace.of(network, inputs, exclude, criterion=name, calibration=data)
    layer, dim = {
        "uses": ("hidden", 1),
        "makes": ("conv", 0),
        "passes": ("bn", 0),
    }[criterion.side]
    own = criterion.scores(views(network, data, layer, criterion))
    expected = own.reshape(len(own), -1).sum(1) if dim == 0 else own.sum(0)
    expected = expected.sqrt() if criterion.root else expected
    torch.testing.assert_close(space.importance()["conv"], expected, atol=1e-12, rtol=1e-9)


def test_removing_the_channel_of_lowest_score_hurts_less_than_the_highest(
    network: nn.Module, data: Data
) -> None:
    """Brute-force ablation: each channel of the hidden layer set to zero."""
    dense = network(*data.inputs).detach()
    head = network.get_submodule("head").weight
    assert isinstance(head, Tensor)
    lost = []
    for channel in range(12):
        saved = head.detach()[:, channel].clone()
        head.data[:, channel] = 0
        lost.append((network(*data.inputs) - dense).square().sum().item())
        head.data[:, channel] = saved
    for name in ("wanda", "second_order"):
        space = ChannelSpace.of(
            network, (data.inputs[0][:1],), ["conv"], criterion=name, calibration=data
        )
        order = space.importance()["hidden"].argsort().tolist()
        few, many = (sum(lost[c] for c in part) for part in (order[:4], order[-4:]))
        assert few < many


def test_l1_is_amcs_sum_over_the_consumer_and_l2_netadapts_norm_of_the_filter() -> None:
    weight = torch.tensor([[3.0, -4.0], [0.5, 0.5]])
    l1, l2 = of_channels("magnitude_l1"), of_channels("magnitude_l2")
    assert (l1.side, l1.root) == ("uses", False)
    assert l1.scores(LayerView(weight)).tolist() == [[3.0, 4.0], [0.5, 0.5]]
    assert (l2.side, l2.root) == ("makes", True)
    assert l2.scores(LayerView(weight)).tolist() == [[9.0, 16.0], [0.25, 0.25]]


def test_pairs_that_make_no_sense_are_refused(network: nn.Module, data: Data) -> None:
    with pytest.raises(InputError, match="'batch_norm_scale' cannot choose weights: BatchNorm has"):
        of_weights("batch_norm_scale")
    inputs = (data.inputs[0][:1],)
    options = {"criterion": "batch_norm_scale", "calibration": data}
    space = ChannelSpace.of(network, inputs, ["conv"], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"needs a BatchNorm with a scale .* 'hidden' has none"):
        space.importance()
    with pytest.raises(InputError, match="'taylor' needs calibration examples"):
        ChannelSpace.of(network, inputs, criterion="taylor")
    for labels in (None, torch.rand(60, 3)):  # a task without labels has the network's outputs
        with pytest.raises(InputError, match="training examples have no labels"):
            Statistics(network, Data(data.inputs[0], labels)).view(
                "head", torch.zeros(3, 12), {"gradient_squares"}
            )
    grouped = ResNeXt().eval()
    names = [n for n, m in grouped.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    with pytest.raises(InputError, match="there are none of grouped convolutions"):
        Statistics(grouped, Data(torch.rand(2, 3, 6, 6))).view(
            names[0], torch.zeros(1, 1), {"moments"}
        )


class Wild(nn.Module):
    """A layer that is never run, two that share a weight, a PReLU that is no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused = nn.Conv2d(4, 8, 3), nn.Linear(3, 3)
        self.slope, self.norm = nn.PReLU(8), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.right.weight = self.left.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.norm(self.first(x)))
        x = self.right(F.relu(self.left(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_unused_layers_shared_weights_and_slopes_are_told_apart() -> None:
    torch.manual_seed(0)
    wild = Wild().eval()
    examples = Data(torch.randn(20, 4, 6, 6), torch.randint(3, (20,)))
    gradients = Statistics(wild, examples).view(
        "first", torch.zeros(8, 4, 3, 3), {"gradient_squares"}
    )
    assert gradients.gradient_squares is not None
    assert bool(gradients.gradient_squares.any())
    space = NMSpace.of(wild, (examples.inputs[0][:1],))
    assert [site.layer for site in space.sites] == ["first", "head"]
    assert space.excluded["left"] == "it shares its weight with another layer"


def test_slopes_of_prelu_are_no_scales_of_batch_norm() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    norm.weight.data = torch.rand(8) - 0.5
    chain = nn.Sequential(nn.Conv2d(4, 8, 3), norm, nn.PReLU(8), nn.Conv2d(8, 4, 1)).eval()
    space = ChannelSpace.of(chain, (torch.rand(1, 4, 6, 6),), criterion="batch_norm_scale")
    expected = norm.weight.detach().double().abs()
    torch.testing.assert_close(space.importance()["0"], expected)


def test_every_pattern_keeps_as_many_as_second_order(network: nn.Module, data: Data) -> None:
    criterion = of_weights("second_order")
    assert criterion.prune is not None
    view = views(network, data, "conv", criterion)
    for (pattern, units), sparsity in itertools.product(
        (("csr", 8 * 54), ("4x1", 2 * 54), ("vector", 8 * 18), ("kernel", 8 * 6)), (0.2, 0.6, 0.9)
    ):
        pruned = criterion.prune(view, Zeros(pattern, sparsity))
        zeros = float((pruned == 0).double().mean())
        assert zeros == pytest.approx(round(sparsity * units) / units)
