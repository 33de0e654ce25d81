"""Which channels of which layers must stay or go together, found by tracing the network.

Torch-Pruning's dependency graph (Fang et al., arXiv:2301.12900) follows residual additions,
depthwise convolutions, concatenations, BatchNorm and flatten-to-linear; this file turns its groups
into plain index lists, so that compressing is slicing. It knows inputs and outputs of a grouped
convolution as independent, and nothing of its groups; ``amc.units`` makes up for that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.errors import InputError
from amc.layers import CONVOLUTIONS, ROOTS, is_depthwise, is_grouped, layer_shapes
from amc.sites import LayerShape
from amc.units import units_of

Dim = Literal["out", "in"]
Role = Literal["makes", "uses", "passes"]


@dataclass(frozen=True)
class Member:
    """One dimension of one layer: position ``index[i]`` belongs to the group's ``channel[i]``.

    ``size`` is the whole dimension of the weight, which for the inputs of a grouped convolution is
    that of one of its groups; positions that ``index`` lacks belong to other groups or none.
    The layer ``makes`` the channels, ``uses`` them, or ``passes`` them on one by one, as BatchNorm
    and depthwise convolutions do.
    """

    layer: str
    dim: Dim
    role: Role
    size: int
    index: NDArray[np.int64]
    channel: NDArray[np.int64]


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels ``0 .. channels-1`` and every layer dimension that they are part of.

    ``name`` is the first layer, in order of execution, that produces them and, where there is a
    choice, nothing else; ``shape`` is its shape. ``consumer`` is that of the first layer to run
    that uses them. Beside a grouped convolution each of ``channels`` is a unit that stands for
    ``unit`` channels of the layer ``name``.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    shape: LayerShape
    macs: int  # one example, of every layer that produces the channels
    consumer: LayerShape | None
    unit: int = 1

    @property
    def layers(self) -> tuple[str, ...]:
        """The coupled layers, producers and consumers, each once."""
        return tuple(dict.fromkeys(member.layer for member in self.members))


def trace_coupling(
    network: nn.Module, example_inputs: tuple[Tensor, ...]
) -> tuple[tuple[ChannelGroup, ...], dict[str, str]]:
    """Return the groups in order of execution, and why each other layer is left alone.

    The second value maps the name of a layer whose output channels cannot be compressed to the
    reason. ``network`` is not changed.
    """
    probe = copy.deepcopy(network).eval().requires_grad_(True)
    shapes = layer_shapes(probe, example_inputs)
    graph = _dependencies(probe, example_inputs)
    names = {module: name for name, module in probe.named_modules()}
    grouped = {name: m.groups for m, name in names.items() if is_grouped(m)}
    order = {name: position for position, name in enumerate(shapes)}
    groups: list[ChannelGroup] = []
    excluded: dict[str, str] = {}
    for raw in graph.get_all_groups(root_module_types=ROOTS):
        members, reason = _read_members(raw, names)
        if not reason and all(member.role != "makes" for member in members):
            reason = "its channels are inputs of the network"
        reason = reason or _why_no_units(members, grouped)
        if reason:
            excluded[_name(members, order, names[raw[0].dep.target.module])] = reason
        else:
            channels, members = _in_units(len(raw[0].idxs), members, grouped)
            groups += _split(members, channels, shapes, order)
    groups.sort(key=lambda g: order[g.name.partition(":")[0]])
    return tuple(groups), excluded


def _dependencies(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                network, example_inputs=example_inputs, verbose=False
            )
    except Exception as error:  # it raises whatever its tracing stumbles over
        raise InputError(
            "the network's coupled channels cannot be traced "
            f"({type(error).__name__}: {error}); simplify its forward pass"
        ) from error


def _read_members(raw: Any, names: dict[nn.Module, str]) -> tuple[list[Member], str]:
    """Return the coupled layer dimensions, and why they cannot be narrowed or an empty string."""
    positions: dict[tuple[str, Dim], dict[int, int]] = {}
    roles: dict[tuple[str, Dim], Role] = {}
    sizes: dict[tuple[str, Dim], int] = {}
    reasons = []
    for item in raw.items:
        module, handler = item.dep.target.module, item.dep.handler.__name__
        if isinstance(module, nn.Parameter):
            reasons.append("it is coupled to a bare parameter")
            continue
        if module not in names:  # element-wise, concatenation, reshape: nothing to slice
            continue
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:  # one for all channels
            continue
        layer = names[module]
        if why := _cannot_narrow(module):
            reasons.append(f"layer {layer!r} {why}")
            continue
        if item.root_idxs is None or any(root is None for root in item.root_idxs):
            reasons.append(f"the channels of {layer!r} do not map one to one")
            continue
        passes = isinstance(module, (_BatchNorm, nn.PReLU)) or is_depthwise(module)
        dim: Dim = "out" if passes or "out_channels" in handler else "in"
        roles[layer, dim] = "passes" if passes else "makes" if dim == "out" else "uses"
        sizes[layer, dim] = _dim_size(module, dim)
        if max(item.idxs, default=-1) >= sizes[layer, dim]:
            reasons.append(f"the channels of {layer!r} do not map one to one")
            continue
        positions.setdefault((layer, dim), {}).update(zip(item.idxs, item.root_idxs, strict=True))
    members = []
    for key, taken in positions.items():
        index, channel = (np.array(list(part), np.int64) for part in (taken, taken.values()))
        members.append(Member(*key, roles[key], sizes[key], index, channel))
    return members, next(iter(reasons), "")


def _why_no_units(members: Sequence[Member], grouped: Mapping[str, int]) -> str:
    """Return which grouped convolution has other channels too, or an empty string."""
    for member in members:
        if member.layer in grouped and len(member.index) < member.size:
            return f"grouped convolution {member.layer!r} has other channels beside them"
    return ""


def _in_units(
    channels: int, members: list[Member], grouped: Mapping[str, int]
) -> tuple[int, list[Member]]:
    """Return the number of units, and the members in units in place of channels.

    ``grouped`` has the number of groups of each grouped convolution.
    """
    tables: dict[tuple[str, Dim], NDArray[np.int64]] = {}
    for member in members:
        if member.layer in grouped:
            ordered = member.channel[np.argsort(member.index)]
            tables[member.layer, member.dim] = ordered.reshape(grouped[member.layer], -1)
    unit = units_of(channels, list(tables.values()))
    result = []
    for member in members:
        index, channel, size = member.index, member.channel, member.size
        if member.dim == "in" and member.layer in grouped:
            channel = tables[member.layer, "in"][0]  # of all groups: they lose the same places
            size = len(channel)
            index = np.arange(size)
        result.append(replace(member, size=size, index=index, channel=unit[channel]))
    return int(unit.max()) + 1, result


def _split(
    members: list[Member], channels: int, shapes: dict[str, LayerShape], order: dict[str, int]
) -> list[ChannelGroup]:
    """Return one group for all channels that have as many places in each layer, or several.

    Where a concatenation is added to something, its parts' channels are coupled to different
    layers. Each part is a decision of its own, so that widths of layers follow those of sites.
    """
    places = np.zeros((channels, len(members)), dtype=np.int64)
    for column, member in enumerate(members):
        np.add.at(places[:, column], member.channel, 1)
    groups: list[ChannelGroup] = []
    for pattern in dict.fromkeys(map(tuple, places.tolist())):
        own = np.flatnonzero((places == pattern).all(axis=1))
        part = tuple(
            _restricted(member, own)
            for member, there in zip(members, pattern, strict=True)
            if there
        )
        name = _name(part, order, "")
        taken = sum(g.name.partition(":")[0] == name for g in groups)
        makers = {m.layer: m for m in part if m.role == "makes"}
        macs = sum(shapes[n].macs * len(m.index) // m.size for n, m in makers.items())
        full_name = f"{name}:{taken}" if taken else name
        users = [m.layer for m in part if m.role == "uses" and m.layer in order]
        consumer = shapes[min(users, key=order.__getitem__)] if users else None
        unit = len(makers[name].index) // len(own)
        groups.append(ChannelGroup(full_name, len(own), part, shapes[name], macs, consumer, unit))
    return groups


def _restricted(member: Member, channels: NDArray[np.int64]) -> Member:
    """Return the member's part in ``channels`` (ascending), renumbered from 0."""
    inside = np.isin(member.channel, channels)
    renumbered = np.searchsorted(channels, member.channel[inside])
    return replace(member, index=member.index[inside], channel=renumbered)


def _name(members: Sequence[Member], order: dict[str, int], default: str) -> str:
    """Return the producing layer that names a group: of the smallest ones, the first to run."""
    makers = [m for m in members if m.role == "makes" and m.layer in order]
    return min(makers, key=lambda m: (m.size, order[m.layer])).layer if makers else default


def _dim_size(module: nn.Module, dim: Dim) -> int:
    if isinstance(module, _BatchNorm):  # which may have no weight
        return module.num_features
    weight = module.weight
    assert isinstance(weight, Tensor)
    if dim == "out":
        return weight.shape[0]
    return module.in_channels if is_grouped(module) else weight.shape[1]


def _cannot_narrow(module: nn.Module) -> str:
    if isinstance(module, (nn.Linear, _BatchNorm, nn.PReLU)):
        return ""
    if isinstance(module, CONVOLUTIONS):
        if is_grouped(module) and module.groups in (module.in_channels, module.out_channels):
            return "has a single input or output a group"
        return ""
    return f"of type {type(module).__name__} cannot be narrowed"
