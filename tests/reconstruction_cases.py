"""Networks whose layers read pruned channels in every way, and what least squares must come to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.compress import Kept, compress, kept_of, masks
from amc.data import Data
from amc.reconstruction.least_squares import LeastSquares
from amc.reconstruction.rows import LAYERS, Layer
from search_spaces.channel import ChannelSpace

SIZE, EXAMPLES = 9, 60


class Residual(nn.Module):
    """A stem that two residual branches add to, one narrower inside, one strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.down, self.shortcut = nn.Conv2d(8, 10, 3, 2, 1), nn.Conv2d(8, 10, 1, 2, bias=False)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        x = F.relu(self.down(x) + self.shortcut(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Concatenated(nn.Module):
    """Two branches side by side, read by a 3x3 convolution and by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 9, 1, bias=False)
        self.mix = nn.Conv2d(15, 8, 3, padding=1, bias=False)
        self.hidden, self.head = nn.Linear(15 + 8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        both = torch.cat([both, F.relu(self.mix(both))], 1).mean((2, 3))
        return self.head(F.relu(self.hidden(both)))  # type: ignore[no-any-return]


def _chain(*middle: nn.Module) -> nn.Module:
    kind = nn.Conv1d if any(isinstance(layer, nn.Conv1d) for layer in middle) else nn.Conv2d
    first = kind(3, 12, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), *middle, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


CASES: dict[str, Callable[[], nn.Module]] = {
    "1x1": lambda: _chain(nn.Conv2d(12, 8, 1, bias=False)),
    "3x3": lambda: _chain(nn.Conv2d(12, 8, 3, padding=1)),
    "3x3 without padding or bias": lambda: _chain(nn.Conv2d(12, 8, 3, bias=False)),
    "strided": lambda: _chain(nn.Conv2d(12, 8, 3, stride=2, padding=1)),
    "dilated": lambda: _chain(nn.Conv2d(12, 8, 3, dilation=2, padding=2)),
    "uneven": lambda: _chain(
        nn.Conv2d(12, 8, (3, 2), padding="same", padding_mode="reflect", bias=False)
    ),
    "1d": lambda: _chain(nn.Conv1d(12, 8, 3, stride=2, padding=2)),
    "depthwise between": lambda: _chain(
        nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 1)
    ),
    "grouped": lambda: _chain(nn.Conv2d(12, 8, 3, padding=1, groups=2)),
    "grouped in a row": lambda: _chain(
        nn.Conv2d(12, 12, 1, groups=3, bias=False), nn.ReLU(), nn.Conv2d(12, 6, 3, 2, groups=2)
    ),
    "linear": lambda: _chain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 8)),
    "residual": Residual,
    "concatenated": Concatenated,
}


def case(name: str) -> tuple[nn.Module, Data, ChannelSpace]:
    """Return a network in evaluation mode, calibration images, and its space, in steps of 1."""
    torch.manual_seed(0)
    network = CASES[name]()
    shape = (SIZE,) if name == "1d" else (SIZE, SIZE)
    inputs = torch.randn(EXAMPLES, 3, *shape)
    network(inputs)
    network.eval()
    return network, Data(inputs), ChannelSpace.of(network, (inputs[:2],), round_to=1)


def least_squares(network: nn.Module, data: Data, space: ChannelSpace) -> LeastSquares:
    """Return the reconstruction as a search prepares it."""
    return LeastSquares(network, space.groups, space.orders, data)


def kept_at(space: ChannelSpace, share: float) -> Kept:
    """Return what the space keeps at a share of each site's widths."""
    return kept_of(space.plan([site.nearest(share * site.channels) for site in space.sites]))


def reconstructed(
    network: nn.Module, data: Data, space: ChannelSpace, kept: Kept
) -> tuple[nn.Module, nn.Module]:
    """Return the compressed network, with sliced weights and with reconstructed ones."""
    sliced = compress(network, space.groups, kept)
    solved = copy.deepcopy(sliced)
    least_squares(network, data, space).apply(solved, kept)
    return sliced, solved


def calls(network: nn.Module, data: Data) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the input and output of each convolution and linear layer, all examples at once."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.setdefault(name, (inputs[0], output))

    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: record(name, inputs, output)
        )
        for name, module in network.named_modules()
        if isinstance(module, LAYERS)
    ]
    with torch.no_grad():
        network(*data.inputs)
    for hook in hooks:
        hook.remove()
    return seen


def narrowed(network: nn.Module, space: ChannelSpace, kept: Kept) -> Mapping[str, Tensor]:
    """Return the indices of the inputs that stay, of each layer that loses some."""
    uses = {m.layer for group in space.groups for m in group.members if m.role == "uses"}
    wanted, found = masks(space.groups, kept), {}
    for name in sorted(uses):
        mask = torch.from_numpy(wanted[name, "in"])
        if not mask.all():
            groups = getattr(network.get_submodule(name), "groups", 1)
            found[name] = mask.repeat(groups).nonzero().flatten()
    return found


def outputs_kept(space: ChannelSpace, kept: Kept, name: str, size: int) -> Tensor:
    """Return the indices of a layer's outputs that stay."""
    mask = masks(space.groups, kept).get((name, "out"))
    return torch.arange(size) if mask is None else torch.from_numpy(mask).nonzero().flatten()


def gradient(layer: Layer, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the squared error to weight and bias, float64 and flat."""
    exact = copy.deepcopy(layer).double()
    error = (exact(inputs.double()) - targets.double()).square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(error, list(exact.parameters()))])


def squared_error(layer: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the squared error of a layer's outputs, in float64."""
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        return float((exact(inputs.double()) - targets.double()).square().sum())
