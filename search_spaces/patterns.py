"""Patterns: how many weights of each layer stay, and as which zeros. No channel is removed.

``search_spaces.nm`` and ``search_spaces.fine_grained`` are this space with ladders of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from amc.coupling import ChannelGroup
from amc.errors import InputError
from amc.kernels.patterns import KEEP, ZEROS
from amc.layers import layer_shapes
from amc.plan import Choice, Plan
from amc.registry import nearest
from amc.sites import THOUSAND, LayerShape, Site
from amc.sparsify import can_be_sparse
from search_spaces.names import check_names, is_within

Ladder = Mapping[int, str]
GROUP = 4  # input channels that an N:M pattern counts together


def ladder(patterns: Sequence[str], sparsities: Sequence[float]) -> dict[int, str]:
    """Return the pattern at each density that a layer may have, in thousandths, ascending.

    "2:4" and "1:4" set their own density; every other pattern has a rung at each of ``sparsities``.
    Where two patterns have the same density, the one named first stands. Dense is not among them.
    """
    rungs: dict[int, str] = {}
    for pattern in patterns:
        if pattern not in ZEROS:
            raise InputError(
                f"sites.patterns names {pattern!r}, which is no pattern"
                f"{nearest(pattern, list(ZEROS)) or '.'} Known: {', '.join(ZEROS)}"
            )
        own = [1 - KEEP[pattern] / 4] if pattern in KEEP else sparsities
        for sparsity in own:
            density = round(THOUSAND * (1 - sparsity))
            if not 0 < density < THOUSAND:
                raise InputError(
                    f"sites.sparsities must lie above 0 and below 1, a thousandth apart, but "
                    f"hold {sparsity:g}; dense needs no mention"
                )
            rungs.setdefault(density, pattern)
    return dict(sorted(rungs.items()))


@dataclass(frozen=True)
class PatternSpace:
    """One site a layer that a sparse kernel can run: which of the ladder's rungs it stands on.

    ``excluded`` says of every other layer why it stays dense. There are no channels to choose, so
    there are no groups and no orders.
    """

    sites: tuple[Site, ...]
    excluded: Mapping[str, str]
    groups: tuple[ChannelGroup, ...] = ()
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @staticmethod
    def on(
        network: nn.Module,
        example_inputs: tuple[Tensor, ...],
        rungs: Ladder,
        exclude: Sequence[str] = (),
    ) -> PatternSpace:
        """Return the space of ``network`` on a ladder, in order of execution.

        N:M patterns are left out of layers with fewer than four input channels.
        Raises ``InputError`` for a name in ``exclude`` that is no layer, and where no site is left.
        """
        check_names(network, exclude)
        layers = layer_shapes(network, example_inputs)
        return PatternSpace._of(network, layers, dict.fromkeys(layers, rungs), exclude)

    @staticmethod
    def with_rungs(
        network: nn.Module, example_inputs: tuple[Tensor, ...], rungs: Mapping[str, Ladder]
    ) -> PatternSpace:
        """Return the space whose layers have a ladder each; those without one stay dense."""
        layers = layer_shapes(network, example_inputs)
        return PatternSpace._of(network, layers, rungs, [n for n in layers if n not in rungs])

    @staticmethod
    def _of(
        network: nn.Module,
        layers: Mapping[str, LayerShape],
        rungs: Mapping[str, Ladder],
        exclude: Sequence[str],
    ) -> PatternSpace:
        modules = dict(network.named_modules())
        sites, excluded = [], {}
        holders = Counter(id(getattr(m, "weight", None)) for m in modules.values())
        for name, shape in layers.items():
            if any(is_within(name, e) for e in exclude):
                excluded[name] = "excluded by sites.exclude"
            elif not can_be_sparse(modules[name]):
                excluded[name] = "no sparse kernel runs it"
            elif holders[id(modules[name].weight)] > 1:
                excluded[name] = "it shares its weight with another layer"
            elif own := {
                density: pattern
                for density, pattern in rungs[name].items()
                if shape.c_in >= GROUP or pattern not in KEEP
            }:
                sites.append(pattern_site(name, shape, own))
            else:
                excluded[name] = f"it has fewer than {GROUP} input channels"
        if not sites:
            why = "; ".join(f"{layer}: {reason}" for layer, reason in excluded.items())
            raise InputError(f"the network has no layer that can be sparse ({why})")
        return PatternSpace(tuple(sites), excluded)

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the plan of given densities; which weights stay is decided as it is built."""
        pairs = zip(self.sites, widths, strict=True)
        return Plan({site.name: pattern_choice(site, width) for site, width in pairs})


def pattern_site(layer: str, shape: LayerShape, rungs: Ladder) -> Site:
    """Return the site that decides on one layer's weights."""
    return Site(
        name=f"{layer}.weight",
        kind=shape.kind,
        channels=shape.c_out,
        c_in=shape.c_in,
        kernel_size=shape.kernel_size,
        stride=shape.stride,
        height=shape.height,
        width=shape.width,
        macs=shape.macs,
        widths=(*rungs, THOUSAND),
        layers=(layer,),
        weights=shape.weights,
        decides="weights",
        patterns=dict(rungs),
    )


def pattern_choice(site: Site, width: int) -> Choice:
    """Return what happens to a layer's weights at a legal ``width``; ``InputError`` for another."""
    site.require(width)
    if width == THOUSAND:
        return Choice(1.0, ())
    return Choice(1.0, (), site.patterns[width], 1 - width / THOUSAND)
