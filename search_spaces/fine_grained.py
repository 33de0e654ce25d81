"""Fine-grained: each layer at any of many sparsities, single weights or small blocks of them.

AMC's fine-grained protocol (He et al., arXiv:1802.03494, section 4.1: weights by magnitude, a
budget of ``weight_bytes`` or ``params``), with the patterns that have kernels: single weights
("csr", "csc"), blocks of four outputs ("4x1"), rows of a kernel ("vector") and whole kernels
("kernel").
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from amc.criteria.chosen import of_weights
from search_spaces.patterns import PatternSpace, ladder

SPARSITIES = tuple(round(0.05 * step, 2) for step in range(1, 20))


class FineGrainedSpace:
    """A ``PatternSpace`` on a ladder of one pattern, or of several with sparsities apart."""

    @staticmethod
    def of(
        network: nn.Module,
        example_inputs: tuple[Tensor, ...],
        exclude: Sequence[str] = (),
        patterns: Sequence[str] | None = None,
        sparsities: Sequence[float] | None = None,
        weight_criterion: str = "magnitude_l1",
    ) -> PatternSpace:
        """Return the space of ``network``; by default "csr" in steps of 5%."""
        of_weights(weight_criterion)
        rungs = ladder(patterns or ("csr",), sparsities or SPARSITIES)
        return PatternSpace.on(network, example_inputs, rungs, exclude)
