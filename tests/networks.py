"""Small networks that couple channels in every way that the search space must follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
