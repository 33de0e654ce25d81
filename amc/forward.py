"""How a network and its compressed versions are run to be scored: found once, the same for all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from amc.compress import compress
from amc.coupling import ChannelGroup
from amc.folding import folded, folds_of
from amc.scoring.program import Forward, Program


class ForwardPasses:
    """The forward passes of the dense ``network`` and of all that it is compressed to.

    With ``fast`` they are ``amc.scoring``'s, where that can take the network; with ``fold``
    BatchNorm may be folded into weights. ``program`` is ``None`` where networks run as they are.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[ChannelGroup],
        example: tuple[Tensor, ...],
        *,
        fast: bool,
        fold: bool,
    ) -> None:
        self._fold = fold
        self._modules = {name for name, _ in network.named_modules()}
        half = {group.name: range(max(1, group.channels // 2)) for group in groups}
        narrower = compress(network, groups, half) if fast else None
        self.program = None if narrower is None else Program.of(network, narrower, example)
        self._folds = folds_of(network, example) if fold and self.program is None else ()

    def of(self, network: nn.Module) -> Forward:
        """Return the forward pass of one version, in evaluation mode, as its weights are now.

        One that lacks modules of the dense network, as removed blocks, runs as it is.
        """
        if self._modules - {name for name, _ in network.named_modules()}:
            return network
        if self.program is not None:
            return self.program.bind(network, self._fold)
        return folded(network, self._folds) if self._folds else network
