"""Scoring's own forward pass: what it computes is what torch computes, on every way and network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.compress import compress
from amc.errors import InputError
from amc.scoring import library
from amc.scoring.layers import Compiled, OneDNN, Plain, fused
from amc.scoring.program import Program
from amc.task import load_task
from search_spaces.channel import ChannelSpace
from tests.networks import two_inputs

LEVELS = (library.NOTHING, library.VECTORS, library.TILES)
CLOSE: dict[str, Any] = {
    "rtol": 1e-4,
    "atol": 1e-4,
}  # outputs of the networks are of the order of 1 to 10


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the test at every level that this machine has."""
    if request.param > library.level():
        pytest.skip("this processor, or this build, has no such layers")
    wanted: int = request.param
    monkeypatch.setattr(library, "level", lambda: wanted)
    return wanted


def settled(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and weights that are not the identity's."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
    return network.eval()


SHAPES = [  # in, out, kernel, stride, padding, groups, height, width
    (1, 12, 3, 2, 1, 1, 28, 28),
    (12, 8, 3, 1, 1, 1, 14, 13),
    (5, 40, 1, 1, 0, 1, 7, 7),
    (24, 24, 1, 1, 0, 1, 5, 3),
    (33, 50, 1, 2, 0, 1, 6, 7),
    (28, 56, 3, 2, 1, 1, 7, 7),
    (70, 65, 3, 1, 1, 1, 4, 4),
    (48, 41, 3, 2, 1, 1, 7, 7),
    (41, 50, 1, 1, 0, 1, 5, 5),
    (64, 40, 1, 2, 0, 1, 6, 5),
    (40, 56, (1, 3), (2, 1), (0, 1), 1, 9, 6),
    (30, 31, (2, 5), (1, 2), (0, 3), 1, 6, 9),
    (20, 20, 3, 1, 1, 20, 7, 9),
    (33, 33, 3, 2, 1, 33, 6, 5),
    (16, 16, 3, 2, 0, 16, 8, 8),
    (6, 9, 3, 1, 1, 3, 5, 5),
    (6, 12, 3, 1, 1, 6, 5, 5),
    (16, 16, 5, 1, 2, 16, 6, 6),
]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fused_layer_is_its_parts(
    level: int, shape: tuple[Any, ...], relu: bool, norm: bool
) -> None:
    torch.manual_seed(0)
    c_in, c_out, kernel, stride, padding, groups, height, width = shape
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=not norm)
    after = settled(nn.BatchNorm2d(c_out)) if norm else None
    assert after is None or isinstance(after, nn.BatchNorm2d)
    for batch in (1, 5):
        x = torch.randn(batch, c_in, height, width)
        plain = Plain(conv, after, relu)
        with torch.inference_mode():
            other = torch.randn_like(plain(x))
            for fold in (False, True):
                layer = fused(conv, after, relu, fold)
                for images in (x, x.contiguous(memory_format=torch.channels_last)):
                    torch.testing.assert_close(layer(images), plain(images), **CLOSE)
                    torch.testing.assert_close(layer(images, other), plain(images, other), **CLOSE)


def test_tiles_are_as_exact_as_float32() -> None:
    if library.level() < library.TILES:
        pytest.skip("this processor has no tiles")
    torch.manual_seed(0)
    conv = nn.Conv2d(200, 64, 3, padding=1, bias=False)
    x = torch.randn(4, 200, 6, 6) * torch.logspace(-3, 3, 200)[:, None, None]
    with torch.inference_mode():
        exact = torch.conv2d(x.double(), conv.weight.double(), padding=1)
        size = torch.conv2d(x.double().abs(), conv.weight.double().abs(), padding=1)
        got = Compiled("amc_tiles", Plain(conv, None, False))(x)
        errors = [float(((y - exact).abs() / size).max()) for y in (got, conv(x))]
    assert errors[0] <= 1e-6
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("groups", [1, 32])
def test_what_is_not_finite_stays_so(level: int, value: float, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, padding=1, groups=groups)
    x = torch.randn(2, 32, 4, 4)
    x[1, 3, 2, 2] = value
    with torch.inference_mode():
        expected, got = conv(x * 10), fused(conv, None, relu=False, fold=True)(x * 10)
    finite = expected.isfinite()
    assert not finite.all()
    assert not got[~finite].isfinite().any()
    assert got[0].isfinite().all(), "of the other image"


def test_what_a_layer_does_not_take_goes_the_plain_way(level: int) -> None:
    conv = nn.Conv2d(24, 24, 3)
    layer = fused(conv, None, relu=True, fold=True)
    with torch.inference_mode():
        for x, match in (
            (torch.randn(1, 23, 5, 5), "channels"),
            (torch.randn(1, 24, 2, 2), "[Kk]ernel size"),
            (torch.randn(1, 24, 5, 5).double(), "type"),
        ):
            with pytest.raises(RuntimeError, match=match):
                layer(x)
        x = torch.randn(24, 5, 5)
        torch.testing.assert_close(layer(x), torch.relu(conv(x)), **CLOSE)
        x, broad = torch.randn(2, 24, 5, 5), torch.randn(24, 1, 1)
        torch.testing.assert_close(layer(x, broad), torch.relu(conv(x) + broad), **CLOSE)
    half = copy.deepcopy(conv).double()
    assert isinstance(fused(half, None, relu=False, fold=True), Plain)


def test_without_its_operators_onednn_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "level", lambda: library.NOTHING)
    conv = nn.Conv2d(4, 4, 3)
    assert isinstance(fused(conv, None, relu=False, fold=True), OneDNN)
    monkeypatch.setattr(OneDNN, "available", staticmethod(lambda: False))
    assert isinstance(fused(conv, None, relu=False, fold=True), Plain)


def test_levels_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    most = library.level()
    for text, expected in (("0", 0), ("1", min(1, most)), ("2", most)):
        monkeypatch.setenv("AMC_SCORING", text)
        library.level.cache_clear()
        assert library.level() == expected
    monkeypatch.setenv("AMC_SCORING", "fast")
    library.level.cache_clear()
    with pytest.raises(InputError, match="AMC_SCORING must be 0, 1 or 2, but is 'fast'"):
        library.level()
    monkeypatch.undo()
    library.level.cache_clear()


def random_kept(space: ChannelSpace, seed: int) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    ratios = rng.uniform(0.1, 1.0, len(space.sites))
    widths = [s.nearest(r * s.channels) for s, r in zip(space.sites, ratios, strict=True)]
    return {name: list(choice.kept) for name, choice in space.plan(widths).choices.items()}


def user_network() -> tuple[nn.Module, tuple[Tensor, ...]]:
    network, _ = two_inputs()
    return network, (torch.randn(20, 3, 8, 8), torch.randn(20, 2, 8, 8))


def of_zoo(name: str) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    def load() -> tuple[nn.Module, tuple[Tensor, ...]]:
        task = load_task(name)
        return task.network, task.search[:20].channels_last().inputs

    return load


NETWORKS = {name: of_zoo(name) for name in ("resnet20", "mobilenet", "digits")}
NETWORKS["branched"] = of_zoo("amc.zoo.branched:branched")
NETWORKS["two inputs"] = user_network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_computes_what_the_network_computes(level: int, name: str) -> None:
    network, inputs = NETWORKS[name]()
    network.eval()
    example = tuple(t[:2] for t in inputs)
    space = ChannelSpace.of(network, example)
    narrow = compress(network, space.groups, random_kept(space, 99))
    program = Program.of(network, narrow, example)
    assert program is not None
    for seed in range(3):
        smaller = compress(network, space.groups, random_kept(space, seed)).eval()
        smaller.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            expected = smaller(*inputs)
            for fold in (False, True):
                got = program.bind(smaller, fold)(*inputs)
                scale = max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=1e-5)
                assert torch.equal(got, program.bind(smaller, fold)(*inputs)), "not deterministic"


def test_the_zoo_runs_fused() -> None:
    for name in ("resnet20", "mobilenet"):
        network, inputs = NETWORKS[name]()
        program = Program.of(network, network, tuple(t[:2] for t in inputs))
        assert program is not None
        kinds = [type(one).__name__ for one in vars(program.bind(network, True).args[0]).values()]  # type: ignore[attr-defined]
        assert "BatchNorm2d" not in kinds
        assert "ReLU" not in kinds
        assert "Conv2d" not in kinds


class Block(nn.Module):
    """One convolution with a BatchNorm; ``kind`` says what is odd about the way it is used."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.size = nn.ReLU(inplace=True), 4
        self.register_buffer("offset", torch.full((4, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return USES[self.kind](self, x, self.conv(x))


def into_the_other(block: Block, x: Tensor, y: Tensor) -> Tensor:
    z = torch.tanh(x)
    z += block.norm(y)
    return z.relu_() + z


USES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "twice": lambda block, x, y: block.conv(y).relu(),
    "used again": lambda block, x, y: block.act(block.norm(y)) + y.mean(),
    "sum with itself": lambda block, x, y: torch.relu(y + y),
    "buffer": lambda block, x, y: block.act(block.norm(y) + block.offset),
    "number": lambda block, x, y: torch.relu(block.norm(y) + 1),
    "into the other": into_the_other,
    "in place": lambda block, x, y: torch.relu(block.norm(y) + x.relu_()),
    "branch": lambda block, x, y: y if y.sum() > 0 else -y,
    "literal": lambda block, x, y: y.reshape(y.shape[0], block.conv.out_channels, -1),
}


@pytest.mark.parametrize("kind", [*USES][:6])
def test_odd_uses_compute_the_same(level: int, kind: str) -> None:
    torch.manual_seed(0)
    network = settled(Block(kind))
    x = torch.randn(3, 4, 6, 6)
    program = Program.of(network, network, (x.clone(),))
    assert program is not None
    with torch.inference_mode():
        expected = network(x.clone())
        torch.testing.assert_close(program.bind(network, True)(x.clone()), expected, **CLOSE)


@pytest.mark.parametrize("kind", [*USES][6:])
def test_what_it_cannot_take_has_no_program(kind: str) -> None:
    torch.manual_seed(0)
    network = settled(Block(kind))
    narrower = copy.deepcopy(network)
    assert isinstance(narrower.conv, nn.Conv2d)
    narrower.conv.out_channels = 2
    assert Program.of(network, narrower, (torch.randn(3, 4, 6, 6),)) is None


def test_hooks_are_called(level: int) -> None:
    network = settled(Block("buffer"))
    seen: list[int] = []
    assert isinstance(network.conv, nn.Conv2d)
    network.conv.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 4, 6, 6)
    program = Program.of(network, network, (x,))
    assert program is not None
    seen.clear()
    with torch.inference_mode():
        program.bind(network, True)(x)
    assert seen == [1]
