"""A network for ``amc bench latency`` alone: its shapes occur in no other network of the zoo."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.data import Data
from amc.search_task import preserved_generators
from amc.task import Task

SIZE, CLASSES = 30, 12


class Branched(nn.Module):
    """A 5x5 stem, branches that are concatenated, a strided 1x1, a head with a hidden layer.

    ``[N, 3, 30, 30] -> [N, 12]``; widths of 24, 48, 80 and 112.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24)
        self.left, self.bn1 = nn.Conv2d(24, 48, 3, 1, 1, bias=False), nn.BatchNorm2d(48)
        self.right, self.bn2 = nn.Conv2d(24, 32, 5, 1, 2, bias=False), nn.BatchNorm2d(32)
        self.mix, self.bn3 = nn.Conv2d(80, 80, 1, bias=False), nn.BatchNorm2d(80)
        self.down, self.bn4 = nn.Conv2d(80, 112, 1, 2, bias=False), nn.BatchNorm2d(112)
        self.deep, self.bn5 = nn.Conv2d(112, 112, 3, 1, 1, bias=False), nn.BatchNorm2d(112)
        self.wide, self.bn6 = nn.Conv2d(112, 80, 3, 2, 1, bias=False), nn.BatchNorm2d(80)
        self.hidden, self.head = nn.Linear(80 * 4 * 4, 96), nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = F.relu(self.bn0(self.stem(x)))
        left, right = F.relu(self.bn1(self.left(x))), F.relu(self.bn2(self.right(x)))
        x = F.relu(self.bn3(self.mix(torch.cat([left, right], 1))))
        x = F.relu(self.bn4(self.down(x)))
        x = F.relu(self.bn5(self.deep(x)))
        x = F.relu(self.bn6(self.wide(x)))
        return self.head(F.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


def branched() -> Task:
    """Return the network with random weights and random images: for latency, nothing else."""
    with preserved_generators():
        torch.manual_seed(0)
        network = Branched()
        images = torch.rand(64, 3, SIZE, SIZE)
    return Task(network, images[:1], Data(images[:32]), Data(images[32:]))
