"""What a criterion is: scores of a layer's weights, from the weights and calibration statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Need = Literal["moments", "gradient_squares"]
Side = Literal["uses", "makes", "passes"]


@dataclass(frozen=True)
class LayerView:
    """One layer as it is now, and what calibration examples say of it.

    ``weight`` is ``[out, in, *kernel]``, of BatchNorm ``[out]``. ``moments`` are the mean of
    ``x x^T`` over the layer's input rows ``x``, float64 ``[columns, columns]``, columns ordered by
    kernel position, then input channel. ``gradient_squares`` is the mean over batches of the
    squared gradient of the loss, in the shape of ``weight``. Where a criterion does not need them,
    they are ``None``.
    """

    weight: Tensor
    moments: Tensor | None = None
    gradient_squares: Tensor | None = None


@dataclass(frozen=True)
class Zeros:
    """Which zeros a weight is to have: a pattern of ``amc.kernels.patterns``, and its sparsity."""

    pattern: str
    sparsity: float


@dataclass(frozen=True)
class Criterion:
    """A score for every weight, higher stays; a group of weights has the sum of its scores.

    ``scores`` returns float64, not negative, in the shape of the weight. ``needs`` says which
    statistics it reads. ``side`` says which weights make up a channel's score: of the layers that
    use it (its kernels), that make it (its filters), or that pass it on (BatchNorm); ``root``
    that the square root of the sum is taken. ``of_channels`` and ``of_weights`` are empty, or why
    it cannot score those. ``within_rows``: unstructured zeros are as many in every output row.
    ``prune`` returns the weight with the zeros and all others updated; by default the weights of
    lowest scores become 0 and the others stay.
    """

    scores: Callable[[LayerView], Tensor]
    needs: frozenset[Need] = frozenset()
    side: Side = "uses"
    root: bool = False
    of_channels: str = ""
    of_weights: str = ""
    within_rows: bool = False
    prune: Callable[[LayerView, Zeros], Tensor] | None = None
