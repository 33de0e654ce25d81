"""N:M: each layer dense, 2:4 or 1:4 along its input channels, as sparse hardware wants it.

Two (Mishra et al., arXiv:2104.08378) or one of every four consecutive input channels stay, for each
output and each position of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from amc.criteria.chosen import of_weights
from amc.errors import InputError
from amc.kernels.patterns import KEEP
from search_spaces.patterns import PatternSpace, ladder


class NMSpace:
    """A ``PatternSpace`` whose rungs are dense, 2:4 and 1:4."""

    @staticmethod
    def of(
        network: nn.Module,
        example_inputs: tuple[Tensor, ...],
        exclude: Sequence[str] = (),
        patterns: Sequence[str] | None = None,
        weight_criterion: str = "magnitude_l1",
    ) -> PatternSpace:
        """Return the space of ``network``; ``patterns`` may leave one of the two out."""
        of_weights(weight_criterion)
        chosen = patterns or tuple(KEEP)
        for pattern in chosen:
            if pattern not in KEEP:
                raise InputError(
                    f"sites.patterns of space 'nm' must be of {', '.join(KEEP)}, but names "
                    f"{pattern!r}; choose space 'fine_grained' or 'mixed'"
                )
        return PatternSpace.on(network, example_inputs, ladder(chosen, ()), exclude)
