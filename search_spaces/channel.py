"""Channels: how many of each coupled group stay. Gives genuinely narrower dense networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.compress import Mask, compress, kept_of, masks, positions, unused
from amc.coupling import ChannelGroup, Member, trace_coupling
from amc.criteria.base import Criterion, LayerView
from amc.criteria.chosen import of_channels
from amc.data import Data
from amc.errors import InputError
from amc.layer_statistics import Statistics
from amc.plan import Choice, Plan
from amc.sites import Site
from search_spaces.names import check_names, is_within

TOLERANCE = 1e-3  # of the largest output, between a narrower network and its dense equal


@dataclass(frozen=True)
class ChannelSpace:
    """The sites of one network, and the way from widths to a plan.

    ``groups[i]`` is what ``sites[i]`` decides on; ``excluded`` says of every other layer why its
    output channels are left alone.
    """

    sites: tuple[Site, ...]
    groups: tuple[ChannelGroup, ...]
    excluded: Mapping[str, str]
    criterion: str
    dense_weights: Mapping[str, Tensor]
    statistics: Statistics | None = None

    @staticmethod
    def of(
        network: nn.Module,
        example_inputs: tuple[Tensor, ...],
        exclude: Sequence[str] = (),
        min_keep_ratio: float = 0.2,
        round_to: int = 4,
        criterion: str = "magnitude_l1",
        calibration: Data | None = None,
    ) -> ChannelSpace:
        """Return the space of ``network``.

        A site keeps at least ``min_keep_ratio`` of its channels and a multiple of ``round_to`` of
        them, or all; beside a grouped convolution at least two of each of its groups. A layer is
        left alone when it is named in ``exclude``, when its channels are the network's inputs or
        outputs, or when a narrower network would not run. Raises ``InputError`` for a name in
        ``exclude`` that is no layer, where no site is left, and for a criterion that needs
        ``calibration`` examples and has none.
        """
        if of_channels(criterion).needs and calibration is None:
            raise InputError(f"sites.criterion {criterion!r} needs calibration examples")
        groups, excluded = trace_coupling(network, example_inputs)
        check_names(network, exclude)
        usable = []
        for group in groups:
            chosen = [e for e in exclude if any(is_within(layer, e) for layer in producers(group))]
            reason = "excluded by sites.exclude" if chosen else ""
            reason = reason or _why_not(network, example_inputs, group)
            if reason:
                excluded[group.name] = reason
            else:
                usable.append(group)
        if not usable:
            why = "; ".join(f"{layer}: {reason}" for layer, reason in excluded.items())
            raise InputError(f"the network has no layer that can be compressed ({why})")
        return ChannelSpace(
            tuple(_site(group, min_keep_ratio, round_to) for group in usable),
            tuple(usable),
            excluded,
            criterion,
            dict(network.state_dict()),
            None if calibration is None else Statistics(network, calibration),
        )

    @cached_property
    def orders(self) -> Mapping[str, tuple[int, ...]]:
        """Each site's channels by the dense network's weights, the most important first."""
        return _ranked_sites(self.importance())

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the plan that keeps the ``widths[i]`` most important channels of each site.

        Importance is the criterion on ``weights``, by parameter name, of the network compressed to
        ``within``; by default on the dense network's own. Channels that ``within`` removed stay
        removed. Among equals the lower index stays.
        """
        dense = weights is None and within is None
        orders = self.orders if dense else _ranked_sites(self.importance(weights, within))
        choices = {}
        for site, width in zip(self.sites, widths, strict=True):
            site.require(width)
            kept = tuple(sorted(orders[site.name][:width]))
            choices[site.name] = Choice(width / site.channels, kept)
        return Plan(choices)

    def importance(
        self, weights: Mapping[str, Tensor] | None = None, within: Plan | None = None
    ) -> dict[str, Tensor]:
        """Return the score of every channel of every site, float64; -inf where it is gone."""
        weights = self.dense_weights if weights is None else weights
        kept = {} if within is None else kept_of(within)
        present = masks(self.groups, kept)
        scores: dict[str, Tensor] = {}
        for group in self.groups:
            score = self._scores(group, weights, present)
            if group.name in kept:
                gone = torch.ones(group.channels, dtype=torch.bool)
                gone[list(kept[group.name])] = False
                score[gone] = -torch.inf
            scores[group.name] = score
        return scores

    def _scores(
        self, group: ChannelGroup, weights: Mapping[str, Tensor], present: Mapping[Any, Mask]
    ) -> Tensor:
        """Return the score of every channel of one group, summed over its layers."""
        criterion = of_channels(self.criterion)
        if not any(_has_weight(member, weights) for member in group.members):
            return torch.zeros(group.channels, dtype=torch.float64)  # all in blocks that are gone
        parts = []
        for member in _scored(group, criterion, weights):
            outputs, inputs = (positions(present.get((member.layer, d))) for d in ("out", "in"))
            weight = weights[f"{member.layer}.weight"].detach()
            view = LayerView(weight)
            if criterion.needs:
                assert self.statistics is not None
                view = self.statistics.view(member.layer, weight, criterion.needs, outputs, inputs)
            by_channel = _by_channel(criterion.scores(view), member, group.channels, present)
            parts.append(by_channel.sum(1))
        total = torch.stack(parts).sum(0)
        return total.sqrt() if criterion.root else total


def _scored(
    group: ChannelGroup, criterion: Criterion, weights: Mapping[str, Tensor]
) -> list[Member]:
    """Return the members whose weights make up the channels' scores.

    Where no layer is on the criterion's side, those on the other side count.
    """
    found = [m for m in group.members if m.role == criterion.side and _has_weight(m, weights)]
    if criterion.side == "passes":
        found = [m for m in found if f"{m.layer}.running_mean" in weights]
        if not found:
            raise InputError(
                f"sites.criterion needs a BatchNorm with a scale at every site, and {group.name!r} "
                "has none; choose another criterion, or exclude the site"
            )
    others = [m for m in group.members if m.role in ("makes", "uses") and _has_weight(m, weights)]
    return found or others


def _has_weight(member: Member, weights: Mapping[str, Tensor]) -> bool:
    return f"{member.layer}.weight" in weights


def _ranked_sites(scores: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the channels of every site, the best first; among equals the lower index."""
    ranked = {n: torch.argsort(s, descending=True, stable=True) for n, s in scores.items()}
    return {name: tuple(channels.tolist()) for name, channels in ranked.items()}


def producers(group: ChannelGroup) -> list[str]:
    """Return the layers that make the group's channels."""
    return [member.layer for member in group.members if member.role == "makes"]


def _site(group: ChannelGroup, min_keep_ratio: float, round_to: int) -> Site:
    # With one channel a group it would be a depthwise convolution, which runs on other kernels.
    least = 1 if group.unit == 1 else 2
    fewest = max(least, int(np.ceil(group.channels * min_keep_ratio - 1e-9)))
    partial = {w for w in range(fewest, group.channels) if w * group.unit % round_to == 0}
    shape = group.shape
    return Site(
        name=group.name,
        kind=shape.kind,
        channels=group.channels,
        c_in=shape.c_in,
        kernel_size=shape.kernel_size,
        stride=shape.stride,
        height=shape.height,
        width=shape.width,
        macs=group.macs,
        widths=(*sorted(partial), group.channels),
        layers=group.layers,
        weights=shape.weights,
        consumer=group.consumer,
        unit=group.unit,
    )


def _why_not(network: nn.Module, example_inputs: tuple[Tensor, ...], group: ChannelGroup) -> str:
    """Return why the group cannot be narrowed, found by trying it, or an empty string.

    Some of its channels are removed, here and there. The narrower network must run, and compute
    what the dense one computes when nothing uses those channels: so a wrong idea of which weights
    belong to which channel, or a layer that mixes channels in other ways, is found out.
    """
    if group.channels < 2:
        several = f"its {group.unit} channels can only go together"
        return "it has a single channel" if group.unit == 1 else several
    kept = {group.name: sorted({c for c in range(group.channels) if c * 5 % 7 in (1, 2, 4)} | {1})}
    inputs = _random_like(example_inputs)
    try:
        with torch.inference_mode():
            expected = unused(network, (group,), kept)(*inputs)
            narrow = compress(network, (group,), kept)(*inputs)
    except Exception as error:
        return f"a narrower network does not run: {str(error).splitlines()[0]}"
    if not isinstance(expected, Tensor) or expected.shape != narrow.shape:
        return "its channels are outputs of the network"
    scale = float(expected.abs().max()) or 1.0
    if not torch.allclose(narrow, expected, rtol=0, atol=TOLERANCE * scale):
        return "its channels are mixed in a way that cannot be followed"
    return ""


def _random_like(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return normal random numbers in the shapes of ``inputs``; integers stay as they are."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(t.shape, generator=generator, dtype=t.dtype) if t.is_floating_point() else t
        for t in inputs
    )


def _by_channel(
    weight: Tensor, member: Member, channels: int, present: Mapping[Any, Any]
) -> Tensor:
    """Return scores of weights ordered by channel, ``[channels, n]``; 0 where there are none."""
    rows = weight if member.dim == "out" else weight.transpose(0, 1)
    rows = rows.reshape(len(rows), -1)
    mask = present[member.layer, member.dim]
    position = np.cumsum(mask) - 1  # where a dense index is found in the compressed weight
    stays = mask[member.index]
    index, channel = position[member.index[stays]], member.channel[stays]
    order = np.argsort(channel, kind="stable")
    index, channel = index[order], channel[order]
    starts = np.searchsorted(channel, channel)
    occurrence = np.arange(len(channel)) - starts
    depth = int(occurrence.max()) + 1 if len(channel) else 1
    result = torch.zeros(channels, depth, rows.shape[1], dtype=torch.float64)
    result[torch.from_numpy(channel), torch.from_numpy(occurrence)] = rows[torch.from_numpy(index)]
    return result.flatten(1)
