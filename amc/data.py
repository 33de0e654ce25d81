"""A split of data: inputs, and labels where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amc.errors import InputError

IMAGE_DIMS = 4


@dataclass(frozen=True, init=False)
class Data:
    """Inputs, a tensor ``[N, ...]`` or a tuple of them (one a network input), and labels ``[N]``.

    ``labels`` is ``None`` for unlabelled data: scores are then agreement with the dense network.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    def __init__(self, inputs: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        parts = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        object.__setattr__(self, "inputs", parts)
        object.__setattr__(self, "labels", labels)
        lengths = {len(t) for t in (*parts, *(() if labels is None else (labels,)))}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"data must have inputs and labels of one length > 0, but got {lengths}"
            )

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, index: slice | Tensor) -> Data:
        """Return the selected examples, as ``Data``."""
        labels = None if self.labels is None else self.labels[index]
        return Data(tuple(t[index] for t in self.inputs), labels)

    def batches(self, size: int) -> Iterator[Data]:
        """Yield consecutive parts of at most ``size`` examples."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def with_labels(self, labels: Tensor | None) -> Data:
        """Return the same inputs with other labels."""
        return Data(self.inputs, labels)

    def channels_last(self) -> Data:
        """Return the same data with images ``[N, C, H, W]`` laid out channels last in memory.

        Networks run faster so (experiments/LOG.md), and every place that scores must use the same
        layout, because rounding depends on it.
        """
        inputs = tuple(
            t.contiguous(memory_format=torch.channels_last) if t.dim() == IMAGE_DIMS else t
            for t in self.inputs
        )
        return Data(inputs, self.labels)

    def digest_arrays(self) -> list[Tensor]:
        """Return every tensor of the split, in a fixed order, for a content digest."""
        return [*self.inputs, *([] if self.labels is None else [self.labels])]


def shift_and_flip(inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return images ``[B, C, H, W]``, each mirrored with p = 0.5 and moved by up to 2 pixels."""
    augmented = []
    for images in inputs:
        batch, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min()))
        rows = torch.randint(0, 5, (batch, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(0, 5, (batch, 1), generator=generator) + torch.arange(width)
        mirrored = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        moved = padded.permute(0, 2, 3, 1)[
            torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
        augmented.append(moved.permute(0, 3, 1, 2))
    return tuple(augmented)
