"""Small networks that couple channels in every way that the search space must follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.data import Data
from amc.task import Task


class TwoInputs(nn.Module):
    """Two inputs, concatenated channels, a residual across the concatenation, flatten-to-linear."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(2, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(20)
        self.mixed = nn.Conv2d(20, 20, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.grouped = nn.Conv2d(20, 16, 1, groups=4)
        self.hidden = nn.Linear(16 * 4 * 4, 24)
        self.out = nn.Linear(24, 5)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        both = F.relu(self.norm(torch.cat([self.left(image), self.right(mask)], 1)))
        both = self.depthwise(both + self.mixed(both))
        features = F.max_pool2d(F.relu(self.grouped(both)), 2).flatten(1)
        return self.out(F.relu(self.hidden(features)))  # type: ignore[no-any-return]


def two_inputs() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the network with settled statistics, and one batch of two examples for it."""
    torch.manual_seed(0)
    network = TwoInputs()
    for _ in range(5):
        network(torch.randn(16, 3, 8, 8), torch.randn(16, 2, 8, 8))
    return network.eval(), (torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8))


class ResNeXt(nn.Module):
    """A residual block with a grouped 3x3 convolution, then two grouped ones in a row.

    ``[N, 3, 6, 6] -> [N, 5]``. The two in a row have 4 and 6 groups.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.reduce, self.expand = nn.Conv2d(12, 24, 1), nn.Conv2d(16, 12, 1, bias=False)
        self.grouped = nn.Conv2d(24, 16, 3, padding=1, groups=4)
        self.deep, self.between = nn.Conv2d(12, 24, 1), nn.BatchNorm2d(24)
        self.fours = nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=4, bias=False)
        self.sixes = nn.Conv2d(24, 12, 1, groups=6)
        self.head = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(image)))
        x = F.relu(x + self.expand(F.relu(self.grouped(F.relu(self.reduce(x))))))
        x = F.relu(self.between(self.fours(F.relu(self.deep(x)))))
        return self.head(F.relu(self.sixes(x)).mean((2, 3)))  # type: ignore[no-any-return]


def resnext(examples: int = 4) -> tuple[nn.Module, Tensor]:
    """Return the network with settled statistics, and a batch for it."""
    torch.manual_seed(0)
    network = ResNeXt()
    for _ in range(5):
        network(torch.randn(64, 3, 6, 6))
    return network.eval(), torch.randn(examples, 3, 6, 6)


def resnext_task() -> Task:
    """Return the network with random images; the score is agreement with the dense network."""
    network, images = resnext(120)
    data = Data(images)
    return Task(network, images[:1], data[:60], data[60:100], data[100:])
