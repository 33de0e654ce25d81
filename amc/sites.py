"""``Site``: one decision of a search."""

from __future__ import annotations

from dataclasses import dataclass


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
    """A group of coupled channels that are kept or removed together.

    ``name`` is the first layer, in order of execution, whose output channels these are; the
    dimensions are that layer's. ``widths`` are the legal numbers of kept channels, ascending, the
    last one being ``channels`` (nothing removed). ``layers`` names every coupled layer;
    ``consumer`` is the first of them to use the channels, ``None`` where that is not known.
    Beside a grouped convolution ``channels``, ``widths`` and what a plan keeps count units, each of
    ``unit`` channels of the layer.
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

    @property
    def producer(self) -> LayerShape:
        """The site's own first layer; its MACs are those of all coupled producers."""
        return LayerShape(
            *(self.kind, self.c_in, self.channels * self.unit, self.kernel_size, self.stride),
            *(self.height, self.width, self.macs, self.weights),
        )

    def nearest(self, channels: float) -> int:
        """Return the legal width nearest to ``channels`` (the smaller one of two as near)."""
        return min(self.widths, key=lambda w: (abs(w - channels), w))
