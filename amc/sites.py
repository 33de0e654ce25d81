"""``Site``: one decision of a search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A group of coupled channels that are kept or removed together.

    ``name`` is the first layer, in order of execution, whose output channels these are; the
    dimensions are that layer's. ``widths`` are the legal numbers of kept channels, ascending, the
    last one being ``channels`` (nothing removed). ``layers`` names every coupled layer.
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

    def nearest(self, channels: float) -> int:
        """Return the legal width nearest to ``channels`` (the smaller one of two as near)."""
        return min(self.widths, key=lambda w: (abs(w - channels), w))
