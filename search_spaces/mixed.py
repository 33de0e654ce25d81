"""Mixed: of each layer how wide it is, and in which pattern its remaining weights stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from amc.coupling import ChannelGroup
from amc.criteria.chosen import of_weights
from amc.data import Data
from amc.layers import layer_shapes
from amc.plan import Plan
from amc.sites import Site
from search_spaces.channel import ChannelSpace
from search_spaces.patterns import PatternSpace, ladder

PATTERNS = ("2:4", "1:4", "csr")
SPARSITIES = (0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class MixedSpace:
    """The sites of a channel space and of a pattern space, layer by layer in order of execution.

    At one layer its channels are decided first. Layers that the pattern space leaves alone may
    still be narrowed, and the other way round; ``excluded`` names those that both leave alone.
    """

    channels: ChannelSpace
    patterns: PatternSpace
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
        """Return the space of ``network``; see ``ChannelSpace.of`` and ``patterns.ladder``."""
        of_weights(weight_criterion)
        rungs = ladder(patterns or PATTERNS, sparsities or SPARSITIES)
        options = exclude, min_keep_ratio, round_to, criterion, calibration
        channels = ChannelSpace.of(network, example_inputs, *options)
        layers = PatternSpace.on(network, example_inputs, rungs, exclude)
        position = {name: i for i, name in enumerate(layer_shapes(network, example_inputs))}
        both = [*channels.sites, *layers.sites]
        order = sorted(both, key=lambda site: (position[site.layer], site.decides != "channels"))
        return MixedSpace(channels, layers, tuple(order))

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
        """Why each layer is left alone that has no site at all."""
        sparse, narrow = self.patterns.excluded, self.channels.excluded
        return {name: f"{narrow[name]}; {why}" for name, why in sparse.items() if name in narrow}

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the plan of given widths and densities; see the two spaces' own ``plan``."""
        named = dict(zip((site.name for site in self.sites), widths, strict=True))
        narrow = within and Plan({s.name: within.choices[s.name] for s in self.channels.sites})
        of_channels = self.channels.plan(
            [named[site.name] for site in self.channels.sites], weights, narrow
        )
        of_layers = self.patterns.plan([named[site.name] for site in self.patterns.sites])
        choices = {**of_channels.choices, **of_layers.choices}
        return Plan({site.name: choices[site.name] for site in self.sites})
