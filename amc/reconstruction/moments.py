"""Second moments of the inputs of many layers, in one pass over the calibration examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amc.data import Data
from amc.reconstruction.rows import Layer, column_count, groups_of, row_chunks

BATCH = 250
MAX_ROWS = 2**18  # of one layer; above it, positions of the examples are drawn
MAX_COLUMNS = 8192  # of one layer; its moments and their factor take 16 bytes a squared column
PANEL = 96  # columns; upper panels alone are multiplied, as the product is symmetric


@dataclass
class Moments:
    """``gram`` is ``X^T X`` of a layer's input rows ``X``, float64 ``[g, columns, columns]``."""

    gram: Tensor
    rows: int = 0

    @staticmethod
    def of(layer: Layer) -> Moments:
        """Return the moments of no rows yet."""
        columns = column_count(layer)
        return Moments(torch.zeros(groups_of(layer), columns, columns, dtype=torch.float64))

    @property
    def columns(self) -> int:
        """The number of columns of all groups together."""
        return self.gram.shape[0] * self.gram.shape[-1]

    def add(self, rows: Tensor) -> None:
        """Add rows ``[g, n, columns]``. Only the upper triangle is right until ``complete``."""
        self.rows += rows.shape[1]
        columns = rows.shape[-1]
        if len(rows) > 1 or columns < 2 * PANEL:
            self.gram.baddbmm_(rows.mT, rows)
            return
        for start in range(0, columns, step := max(PANEL, -(-columns // 6))):
            panel = rows[0, :, start : start + step]
            self.gram[0, start : start + step, start:].addmm_(panel.T, rows[0, :, start:])

    def complete(self) -> None:
        """Mirror the upper triangle, so that rounding is symmetric too."""
        self.gram = self.gram.triu() + self.gram.triu(1).mT


def positions_an_example(examples: int) -> int:
    """Return the most output positions of an example that keep a layer within ``MAX_ROWS``."""
    return max(1, MAX_ROWS // examples)


@torch.no_grad()
def gather(
    network: nn.Module,
    layers: Mapping[str, Layer],
    data: Data,
    on_batch: Callable[[int], None] = lambda examples: None,
) -> dict[str, Moments]:
    """Return the moments of the inputs of ``layers`` as ``network`` runs over ``data``.

    All calls of a layer count. Memory: the moments, one batch of activations, one chunk of rows.
    ``on_batch`` is told after each batch how many examples it had.
    """
    if not layers:
        return {}
    moments = {name: Moments.of(layer) for name, layer in layers.items()}
    most = positions_an_example(len(data))

    def record(name: str, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for rows in row_chunks(layer, input_of(args, kwargs), most):
            moments[name].add(rows)

    hooks = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: record(name, module, args, kwargs),
            with_kwargs=True,
        )
        for name, layer in layers.items()
    ]
    try:
        for batch in data.batches(BATCH):
            network(*batch.inputs)
            on_batch(len(batch))
    finally:
        for hook in hooks:
            hook.remove()
    for one in moments.values():
        one.complete()
    return moments


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the input of one call of a layer."""
    tensor = args[0] if args else kwargs["input"]
    assert isinstance(tensor, Tensor)
    return tensor
