"""Mixed: which blocks stay, how wide each layer is, and in which pattern its weights stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from amc.compress import compress, kept_of
from amc.coupling import ChannelGroup
from amc.criteria.chosen import of_weights
from amc.data import Data
from amc.errors import InputError
from amc.layers import layer_shapes
from amc.plan import Plan
from amc.sites import Site
from search_spaces.channel import ChannelSpace
from search_spaces.depth import DepthSpace, blocks_of
from search_spaces.names import is_within
from search_spaces.patterns import PatternSpace, ladder

BLOCK = "block"  # among the patterns: whole blocks may go
PATTERNS = ("2:4", "1:4", "csr", BLOCK)
SPARSITIES = (0.6, 0.7, 0.8, 0.9, 0.95)
ORDER = ("block", "channels", "weights")


@dataclass(frozen=True)
class MixedSpace:
    """The sites of a depth, a channel and a pattern space, layer by layer in order of execution.

    A block is decided before the layers in it, and a layer's channels before its weights. What is
    decided of layers whose block goes does not count: a plan has them whole, or with the channels
    of the plan that it comes from. Layers that the pattern space leaves alone may still be
    narrowed, and the other way round; ``excluded`` names those that both leave alone. ``blocks`` is
    ``None`` where the network has no block that can go, or none shall: what it takes and returns
    must be the same channels, as beside a shortcut, or else they could not be narrowed apart.
    """

    channels: ChannelSpace
    patterns: PatternSpace
    blocks: DepthSpace | None
    sites: tuple[Site, ...]

    @staticmethod
    def of(
        network: nn.Module,
        example_inputs: tuple[Tensor, ...],
        exclude: Sequence[str] = (),
        min_keep_ratio: float = 0.2,
        round_to: int = 4,
        criterion: str = "magnitude_l1",
        patterns: Sequence[str] | None = None,
        sparsities: Sequence[float] | None = None,
        weight_criterion: str = "magnitude_l1",
        calibration: Data | None = None,
    ) -> MixedSpace:
        """Return the space of ``network``; see ``ChannelSpace.of`` and ``patterns.ladder``.

        ``patterns`` may name ``block`` beside patterns of weights.
        """
        of_weights(weight_criterion)
        named = patterns or PATTERNS
        of_layers = [pattern for pattern in named if pattern != BLOCK]
        if not of_layers:
            raise InputError(
                f"sites.patterns names {BLOCK!r} alone; name a pattern of weights too, such as "
                "'2:4', or choose space 'depth'"
            )
        rungs = ladder(of_layers, sparsities or SPARSITIES)
        options = exclude, min_keep_ratio, round_to, criterion, calibration
        channels = ChannelSpace.of(network, example_inputs, *options)
        layers = PatternSpace.on(network, example_inputs, rungs, exclude)
        blocks = None
        if BLOCK in named:
            blocks = _blocks(network, example_inputs, channels, exclude)
            if blocks is None and patterns:
                raise InputError(
                    f"sites.patterns names {BLOCK!r}, but no block of the network takes and "
                    "returns the same channels, as beside a shortcut; leave it out"
                )
        position = {name: i for i, name in enumerate(layer_shapes(network, example_inputs))}

        def place(site: Site) -> tuple[int, int]:
            first = site.layers[0] if site.decides == "block" else site.layer
            return position[first], ORDER.index(site.decides)

        every = [*channels.sites, *layers.sites, *(blocks.sites if blocks else ())]
        return MixedSpace(channels, layers, blocks, tuple(sorted(every, key=place)))

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """What each site that decides on channels decides on."""
        return self.channels.groups

    @property
    def orders(self) -> Mapping[str, tuple[int, ...]]:
        """Each group's channels by the dense network's weights, the most important first."""
        return self.channels.orders

    @cached_property
    def excluded(self) -> Mapping[str, str]:
        """Why each layer is left alone that has no site at all, and each block that cannot go."""
        sparse, narrow = self.patterns.excluded, self.channels.excluded
        both = {name: f"{narrow[name]}; {why}" for name, why in sparse.items() if name in narrow}
        return {**both, **(self.blocks.excluded if self.blocks else {})}

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the plan of given widths and densities; see the three spaces' own ``plan``."""
        named = dict(zip((site.name for site in self.sites), widths, strict=True))
        before = within.choices if within is not None else {}
        gone = self._gone(named)
        for site in self.sites:
            if site.name in gone:
                site.require(named[site.name])
                # Channels that the plan before had removed cannot come back, not even here.
                choice = before.get(site.name) if site.decides == "channels" else None
                named[site.name] = site.full if choice is None else site.width_of(choice)

        def own(space: ChannelSpace | PatternSpace | DepthSpace) -> Plan:
            parent = within and Plan({site.name: before[site.name] for site in space.sites})
            return space.plan([named[site.name] for site in space.sites], weights, parent)

        choices = {**own(self.channels).choices, **own(self.patterns).choices}
        if self.blocks is not None:
            choices |= own(self.blocks).choices
        return Plan({site.name: choices[site.name] for site in self.sites})

    def _gone(self, widths: Mapping[str, int]) -> set[str]:
        """Return the sites all of whose layers are in blocks of width 0."""
        blocks = [site.name for site in self.sites if site.decides == "block"]
        removed = [name for name in blocks if not widths[name]]
        return {
            site.name
            for site in self.sites
            if site.decides != "block"
            and all(any(is_within(layer, name) for name in removed) for layer in site.layers)
        }


def _blocks(
    network: nn.Module, inputs: tuple[Tensor, ...], channels: ChannelSpace, exclude: Sequence[str]
) -> DepthSpace | None:
    """Return the space of blocks that can go at any widths, ``None`` where there is none."""
    try:
        blocks = DepthSpace.of(network, inputs, exclude)
    except InputError:  # names are checked before: the network has no block
        return None
    return blocks.without(_of_changing_shape(network, inputs, channels, blocks))


def _of_changing_shape(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    channels: ChannelSpace,
    blocks: DepthSpace,
) -> dict[str, str]:
    """Return why some ``blocks`` cannot go, found with one site of ``channels`` narrowed at a time.

    Such a block takes other channels than it returns.
    """
    found: dict[str, str] = {}
    full = [site.full for site in channels.sites]
    for i, site in enumerate(channels.sites):
        widths = [*full[:i], site.widths[0], *full[i + 1 :]]
        narrow = compress(network, channels.groups, kept_of(channels.plan(widths)))
        for name in {block.name for block in blocks.sites} - set(blocks_of(narrow, inputs)):
            found.setdefault(name, f"narrowing {site.name!r} changes only one of its two ends")
    return found
