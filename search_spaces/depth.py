"""Depth: whole blocks stay or go, where what they take and what they return have one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amc.compress import remove_blocks
from amc.coupling import ChannelGroup
from amc.errors import InputError
from amc.layers import ROOTS, layer_shapes
from amc.plan import Choice, Plan
from amc.sites import LayerShape, Site
from search_spaces.names import check_names, is_within


@dataclass(frozen=True)
class DepthSpace:
    """One site a block: it stays (1), or its input is passed on in its place (0).

    Of blocks within blocks the inner ones are sites. In a residual block whose shortcut is the
    identity, what goes is what it adds.
    """

    sites: tuple[Site, ...]
    excluded: Mapping[str, str]
    groups: tuple[ChannelGroup, ...] = ()
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @staticmethod
    def of(
        network: nn.Module, example_inputs: tuple[Tensor, ...], exclude: Sequence[str] = ()
    ) -> DepthSpace:
        """Return the space of ``network``, in order of execution.

        Raises ``InputError`` for a name in ``exclude`` that is no layer, and where there is no
        block.
        """
        check_names(network, exclude)
        shapes = layer_shapes(network, example_inputs)
        found = blocks_of(network, example_inputs)
        inner = [a for a in found if not any(b != a and is_within(b, a) for b in found)]
        sites, excluded = [], {}
        for name in inner:
            if any(is_within(name, e) for e in exclude):
                excluded[name] = "excluded by sites.exclude"
            elif why := _why_not(network, example_inputs, name):
                excluded[name] = why
            else:
                own = {layer: its for layer, its in shapes.items() if is_within(layer, name)}
                sites.append(_site(name, own))
        if not sites:
            raise InputError(
                "the network has no block that can be removed: none takes and returns one shape; "
                "choose another space"
            )
        return DepthSpace(tuple(sites), excluded)

    def without(self, excluded: Mapping[str, str]) -> DepthSpace | None:
        """Return the space without the blocks ``excluded``, by reason; ``None`` if none is left."""
        sites = tuple(site for site in self.sites if site.name not in excluded)
        return DepthSpace(sites, {**self.excluded, **excluded}) if sites else None

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the plan that removes the blocks of width 0; removed ones cannot come back."""
        choices = {}
        for site, width in zip(self.sites, widths, strict=True):
            site.require(width)
            if within is not None and width and not within.choices[site.name].keep_ratio:
                raise InputError(f"the plan keeps block {site.name!r} that its parent removed")
            choices[site.name] = Choice(float(width), ())
        return Plan(choices)


def blocks_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Return the modules that hold layers and take and return one shape, in order of execution."""
    found: list[str] = []
    runs: dict[str, int] = {}

    def record(name: str, given: tuple[object, ...], output: object) -> None:
        runs[name] = runs.get(name, 0) + 1
        x = given[0] if len(given) == 1 else None
        if isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape == output.shape:
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _, x, y, name=name: record(name, x, y))
        for name, module in network.named_modules()
        if name and any(isinstance(m, ROOTS) and m is not module for m in module.modules())
    ]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in dict.fromkeys(found) if runs[name] == 1]


def _why_not(network: nn.Module, inputs: tuple[Tensor, ...], name: str) -> str:
    """Return why the network cannot do without a block, found by trying, or an empty string."""
    try:
        with torch.no_grad():
            expected = network(*inputs)
            found = remove_blocks(network, [name])(*inputs)
    except Exception as error:  # whatever the network raises
        return f"the network does not run without it: {str(error).splitlines()[0]}"
    same = isinstance(found, Tensor) and isinstance(expected, Tensor)
    return "" if same and found.shape == expected.shape else "the network's outputs change shape"


def _site(name: str, layers: Mapping[str, LayerShape]) -> Site:
    """Return the site of one block; the dimensions are those of its first layer."""
    first = next(iter(layers.values()))
    return Site(
        name=name,
        kind=first.kind,
        channels=first.c_out,
        c_in=first.c_in,
        kernel_size=first.kernel_size,
        stride=first.stride,
        height=first.height,
        width=first.width,
        macs=sum(shape.macs for shape in layers.values()),
        widths=(0, 1),
        layers=tuple(layers),
        weights=sum(shape.weights for shape in layers.values()),
        decides="block",
    )
