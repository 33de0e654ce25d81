"""Coupling and compression: a narrower network equals the dense one with the channels silenced."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.compress import Kept, compress, masks, narrow
from amc.errors import InputError
from amc.layers import layer_shapes
from amc.task import load_task, network_digest
from search_spaces.channel import ChannelSpace
from tests.networks import two_inputs


def space_of(name: str, **options: object) -> tuple[nn.Module, tuple[Tensor, ...], ChannelSpace]:
    inputs: tuple[Tensor, ...]
    if name == "two_inputs":
        network, inputs = two_inputs()
    else:
        task = load_task(name)
        network, inputs = task.network, task.search[:2].inputs
    return network, inputs, ChannelSpace.of(network, inputs, **options)  # type: ignore[arg-type]


def silenced(network: nn.Module, space: ChannelSpace, kept: Kept) -> nn.Module:
    """Return the dense network with everything that the removed channels produce set to zero."""
    copied = copy.deepcopy(network)
    modules = dict(copied.named_modules())
    for (layer, dim), mask in masks(space.groups, kept).items():
        if dim == "in":
            continue
        gone, module = ~torch.from_numpy(mask), modules[layer]
        names = ("weight", "bias", "running_mean")[: 3 if isinstance(module, _BatchNorm) else 2]
        for name in names:
            tensor = getattr(module, name)
            if tensor is not None:
                tensor.data[gone] = 0
    return copied


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "mobilenet", "two_inputs"])
def test_narrow_equals_silenced(name: str) -> None:
    network, inputs, space = space_of(name, round_to=1)
    before = network_digest(network)
    for share in (0.0, 0.5, 0.9):
        plan = space.plan([s.widths[int(share * (len(s.widths) - 1))] for s in space.sites])
        kept = {site: choice.kept for site, choice in plan.choices.items()}
        with torch.no_grad():
            expected = silenced(network, space, kept)(*inputs)
            smaller = compress(network, space.groups, kept)
            torch.testing.assert_close(smaller(*inputs), expected, rtol=1e-4, atol=1e-4)
        assert sum(p.numel() for p in smaller.parameters()) < sum(
            p.numel() for p in network.parameters()
        )
    assert network_digest(network) == before


def test_sites_of_resnet20_follow_the_residual_additions() -> None:
    _, _, space = space_of("resnet20")
    assert len(space.sites) == 12
    first = space.sites[0]
    assert first.name == "conv1"
    assert {"layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"} <= set(first.layers)
    assert space.excluded == {"fc": "its channels are outputs of the network"}


def test_sites_of_mobilenet_carry_their_depthwise_layers() -> None:
    _, _, space = space_of("mobilenet")
    assert len(space.sites) == 14
    assert all(f"blocks.{i}.depthwise" in space.sites[i].layers for i in range(13))


def test_units_of_a_grouped_convolution_span_a_concatenation() -> None:
    """Of 5 channels in each of 4 groups, 3 are 2 of ``left`` and 2 of ``right``, 2 are 1 and 3."""
    _, _, space = space_of("two_inputs")
    assert {site.name: (site.channels, site.unit) for site in space.sites} == {
        "left": (3, 2),
        "left:1": (2, 1),
        "grouped": (4, 4),
        "hidden": (24, 1),
    }
    assert {"right", "mixed", "depthwise", "grouped"} <= set(space.sites[0].layers)
    assert space.excluded == {"out": "its channels are outputs of the network"}


def test_a_depthwise_layer_on_the_inputs_is_left_alone() -> None:
    depthwise, pointwise = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1)
    network = nn.Sequential(depthwise, pointwise, nn.Flatten(), nn.Linear(6 * 4, 3)).eval()
    space = ChannelSpace.of(network, (torch.randn(2, 4, 4, 4),), round_to=1)
    assert [site.name for site in space.sites] == ["1"]
    assert space.excluded["0"] == "its channels are inputs of the network"


class Concat(nn.Module):
    """A residual across a concatenation: its two parts are coupled to the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(3, 20, 1)
        self.left = nn.Conv2d(20, 8, 1)
        self.right = nn.Conv2d(20, 12, 1)
        self.out = nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.whole(x)
        both = whole + torch.cat([self.left(whole), self.right(whole)], 1)
        return self.out(both).mean((2, 3))  # type: ignore[no-any-return]


def concat_space() -> tuple[nn.Module, tuple[Tensor, ...], ChannelSpace]:
    torch.manual_seed(0)
    network, inputs = Concat().eval(), (torch.randn(2, 3, 4, 4),)
    return network, inputs, ChannelSpace.of(network, inputs, round_to=1)


def test_residual_across_a_concatenation() -> None:
    network, inputs, space = concat_space()
    assert {site.name: site.channels for site in space.sites} == {"left": 8, "right": 12}
    assert all("whole" in site.layers for site in space.sites)
    plan = space.plan([s.widths[0] for s in space.sites])
    kept = {site: choice.kept for site, choice in plan.choices.items()}
    with torch.no_grad():
        expected = silenced(network, space, kept)(*inputs)
        torch.testing.assert_close(compress(network, space.groups, kept)(*inputs), expected)


def test_a_child_keeps_what_matters_in_its_parent() -> None:
    network, inputs, space = space_of("resnet8")
    parent = space.plan([s.widths[-2] for s in space.sites])
    kept = {site: choice.kept for site, choice in parent.choices.items()}
    tuned = compress(network, space.groups, kept)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(torch.rand_like(parameter))
    child = space.plan([s.widths[0] for s in space.sites], dict(tuned.state_dict()), parent)
    smaller = {site: choice.kept for site, choice in child.choices.items()}
    assert all(set(smaller[s]) < set(kept[s]) for s in kept)
    assert smaller != {
        s: c.kept for s, c in space.plan([s.widths[0] for s in space.sites]).choices.items()
    }
    result = narrow(tuned, space.groups, kept, smaller)
    with torch.no_grad():
        assert result(*inputs).shape == network(*inputs).shape
    with pytest.raises(InputError, match="its parent removed"):
        narrow(result, space.groups, smaller, kept)


def test_exclude_and_its_mistakes() -> None:
    _, _, space = space_of("resnet8", exclude=["layer3"])
    assert all(not s.name.startswith("layer3") for s in space.sites)
    assert space.excluded["layer3.0.conv1"] == "excluded by sites.exclude"
    with pytest.raises(InputError, match="did you mean 'layer3'"):
        space_of("resnet8", exclude=["layer33"])


def test_widths_are_multiples_or_whole() -> None:
    _, _, space = space_of("resnet8", round_to=8, min_keep_ratio=0.3)
    for site in space.sites:
        assert site.widths[-1] == site.channels
        assert all(w % 8 == 0 and w >= 0.3 * site.channels for w in site.widths)
    with pytest.raises(InputError, match="is not legal"):
        space.plan([1] * len(space.sites))


class Odd(nn.Module):
    """Layers that a channel cannot be followed through, beside one where it can."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.PReLU()
        self.second = nn.Conv2d(4 if kind == "chunk" else 8, 8, 3, padding=1)
        self.out = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        if self.kind == "chunk":
            left, right = x.chunk(2, 1)
            x = left * right
        x = torch.sigmoid(self.second(x))
        if self.kind == "softmax":
            x = x.softmax(1)
        if self.kind == "last":
            x = x.permute(0, 2, 3, 1)
        return self.out(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        ("plain", {"first", "second"}),
        ("chunk", {"second"}),
        ("softmax", {"first"}),
        ("last", {"first"}),
    ],
)
def test_channels_that_cannot_be_followed_are_left_alone(kind: str, sites: set[str]) -> None:
    torch.manual_seed(0)
    space = ChannelSpace.of(Odd(kind).eval(), (torch.zeros(1, 3, 4, 4),), round_to=1)
    assert {site.name for site in space.sites} == sites
    left_alone = {layer.partition(":")[0] for layer in space.excluded}
    assert left_alone == {"first", "second", "out"} - sites


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "mobilenet"])
def test_a_site_knows_the_first_layer_that_uses_its_channels(name: str) -> None:
    network, inputs, space = space_of(name)
    shapes = layer_shapes(network, inputs)
    for site, group in zip(space.sites, space.groups, strict=True):
        users = {m.layer for m in group.members if m.role == "uses"}
        first = next(layer for layer in shapes if layer in users)
        assert site.consumer == shapes[first]
        assert site.consumer.c_in == site.channels
        weight = network.get_submodule(site.name).weight
        assert isinstance(weight, Tensor)
        assert site.weights == weight.numel()
