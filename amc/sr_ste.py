"""SR-STE: training N:M sparse layers whose zeros may still move (Zhou et al., arXiv:2102.04010).

The forward pass uses the pruned weights, gradients go to all of them as if nothing had been pruned
(straight-through), and those that are pruned now are drawn towards 0 by ``decay`` (equation 9).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from amc.kernels.patterns import keep_largest

DECAY = 2e-4  # as published


class MovingZeros:
    """The dense weights of some layers of a network, and the patterns that they are run in.

    ``patterns`` are "2:4" or "1:4" by the layer's name.
    """

    def __init__(
        self, network: nn.Module, patterns: Mapping[str, str], decay: float = DECAY
    ) -> None:
        self._network, self._patterns, self._decay = network, patterns, decay

    @contextlib.contextmanager
    @torch.no_grad()
    def pruned(self) -> Iterator[None]:
        """Let the layers have pruned weights within, and their dense ones again afterwards."""
        dense = {name: self._weight(name).detach().clone() for name in self._patterns}
        self.settle()
        try:
            yield
        finally:
            for name, weight in dense.items():
                self._weight(name).copy_(weight)

    @torch.no_grad()
    def refine(self) -> None:
        """Add the pull towards 0 of what is pruned now to the gradients."""
        for name in self._patterns:
            weight = self._weight(name)
            gone = self._kept(name) == 0
            assert weight.grad is not None
            weight.grad.add_(weight.detach() * gone, alpha=self._decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Prune the weights for good."""
        for name in self._patterns:
            self._weight(name).copy_(self._kept(name))

    def _kept(self, name: str) -> Tensor:
        weight = self._weight(name).detach().contiguous()
        return keep_largest(weight, self._patterns[name])

    def _weight(self, name: str) -> nn.Parameter:
        weight = self._network.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        return weight
