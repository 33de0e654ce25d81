"""``Site``: one decision of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from amc.errors import InputError
from amc.plan import Choice

Decides = Literal["channels", "weights", "block"]


THOUSAND = 1000  # weights in thousandths: as fine as latency tables are


@dataclass(frozen=True)
class LayerShape:
    """What a layer looked like when the network ran on one batch of example inputs."""

    kind: str  # "conv", "depthwise" or "linear"
    c_in: int
    c_out: int
    kernel_size: int
    stride: int  # 0 for a linear layer
    height: int
    width: int
    macs: int  # one example, dense
    weights: int  # the length of the weight, dense


@dataclass(frozen=True)
class Site:
    """One decision: how much of something stays. ``decides`` says of what.

    ``channels``: of a group of coupled channels that are kept or removed together. ``name`` is the
    first layer, in order of execution, whose output channels these are; the dimensions are that
    layer's. ``widths`` are the legal numbers of kept channels, ascending, the last one being
    ``channels`` (nothing removed). ``layers`` names every coupled layer; ``consumer`` is the first
    of them to use the channels, ``None`` where that is not known. Beside a grouped convolution
    ``channels``, ``widths`` and what a plan keeps count units, each of ``unit`` channels of the
    layer.

    ``weights``: of one layer's weights. ``name`` is the weight's own (``layer1.0.conv1.weight``),
    ``widths`` count thousandths of it, the last one being ``THOUSAND`` (dense), and ``patterns``
    has the pattern of the zeros at each other width; ``channels`` are the layer's outputs.

    ``block``: of a residual block, all (1) or nothing (0). ``name`` is the block's.
    """

    name: str
    kind: str  # "conv" or "linear"
    channels: int
    c_in: int
    kernel_size: int
    stride: int
    height: int
    width: int
    macs: int  # one example, dense, of every layer that produces these channels
    widths: tuple[int, ...]
    layers: tuple[str, ...]
    weights: int = 0  # the length of the first layer's weight, dense
    consumer: LayerShape | None = None
    unit: int = 1
    decides: Decides = "channels"
    patterns: Mapping[int, str] = field(default_factory=dict)

    @property
    def full(self) -> int:
        """The width at which nothing is removed."""
        return {"channels": self.channels, "weights": THOUSAND, "block": 1}[self.decides]

    @property
    def layer(self) -> str:
        """The layer that the dimensions are of; decisions on one layer are taken in one step."""
        return self.layers[0] if self.decides == "weights" else self.name.partition(":")[0]

    def width_of(self, choice: Choice) -> int:
        """Return the width that a plan's choice for this site comes to."""
        if self.decides == "channels":
            return len(choice.kept)
        return round(self.full * (1 - choice.sparsity) * choice.keep_ratio)

    @property
    def producer(self) -> LayerShape:
        """The site's own first layer; its MACs are those of all coupled producers."""
        return LayerShape(
            *(self.kind, self.c_in, self.channels * self.unit, self.kernel_size, self.stride),
            *(self.height, self.width, self.macs, self.weights),
        )

    def require(self, width: int) -> None:
        """Raise ``InputError`` unless ``width`` is legal."""
        if width not in self.widths:
            raise InputError(
                f"width {width} at site {self.name!r} is not legal; choose one of {self.widths}"
            )

    def nearest(self, wish: float) -> int:
        """Return the legal width nearest to ``wish`` (the smaller one of two as near)."""
        return min(self.widths, key=lambda w: (abs(w - wish), w))
