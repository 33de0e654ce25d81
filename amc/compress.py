"""Applying a plan: a genuinely smaller network, by slicing weights. No masks.

Everything here is index arithmetic on the groups of ``amc.coupling``; the original network is never
changed.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.coupling import ChannelGroup, Dim
from amc.errors import InputError
from amc.layers import is_depthwise, is_grouped
from amc.plan import Plan

Kept = Mapping[str, Sequence[int]]
Mask = NDArray[np.bool_]


def kept_of(plan: Plan) -> Kept:
    """Return the kept channels of every site of ``plan`` that decides on channels, by its name."""
    return {s: choice.kept for s, choice in plan.choices.items() if choice.kept}


def compress(network: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> nn.Module:
    """Return a copy of the dense ``network`` with only the ``kept`` channels of each group.

    ``kept`` maps a group's name to ascending channel indices; a group that it does not name stays
    whole. Raises ``InputError`` where a layer would be left without channels.
    """
    return narrow(network, groups, {}, kept)


def removed_blocks(plan: Plan) -> list[str]:
    """Return the blocks that ``plan`` removes."""
    return [site for site, choice in plan.choices.items() if not choice.keep_ratio]


def remove_blocks(network: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """Return a copy of ``network`` that passes on what the ``blocks`` are given."""
    shorter = copy.deepcopy(network)
    for name in blocks:
        shorter.set_submodule(name, nn.Identity())
    return shorter


def realised(network: nn.Module, groups: Sequence[ChannelGroup], plan: Plan) -> nn.Module:
    """Return a copy of the dense ``network`` with the channels and blocks that ``plan`` keeps."""
    smaller = compress(network, groups, kept_of(plan))
    for name in removed_blocks(plan):
        smaller.set_submodule(name, nn.Identity())
    return smaller


def narrow(
    network: nn.Module, groups: Sequence[ChannelGroup], before: Kept, after: Kept
) -> nn.Module:
    """Return a copy of a network already compressed to ``before``, narrowed further to ``after``.

    Both name channels of the dense network; ``after`` must be a part of ``before``. Layers of
    blocks that the network no longer has are left out.
    """
    there = {name for name, _ in network.named_modules()}
    present, wanted = masks(groups, before), masks(groups, after)
    sliced: dict[tuple[str, Dim], Tensor] = {}
    for (layer, dim), mask in wanted.items():
        if layer not in there:
            continue
        now = present[layer, dim]
        if bool((mask & ~now).any()):
            raise InputError(f"the plan keeps channels of layer {layer!r} that its parent removed")
        if not mask.any():
            raise InputError(f"the plan leaves layer {layer!r} no channels; keep at least one")
        if mask.sum() < now.sum():
            sliced[layer, dim] = torch.from_numpy(np.flatnonzero(mask[now]))
    smaller = _copied_but(network, sliced)
    modules = dict(smaller.named_modules())
    for (layer, dim), keep in sliced.items():
        _slice(modules[layer], dim, keep)
    return smaller


def _copied_but(network: nn.Module, sliced: Iterable[tuple[str, Dim]]) -> nn.Module:
    """Return a copy of the network that still shares the tensors about to be sliced.

    What is sliced away is so never copied. A tensor that another layer holds too is copied.
    """
    modules = dict(network.named_modules())
    names = {
        (layer, name)
        for layer, dim in sliced
        for name in _sliced_names(modules[layer], dim)
        if getattr(modules[layer], name, None) is not None
    }
    holders = Counter(
        id(tensor)
        for module in modules.values()
        for tensor in (*module._parameters.values(), *module._buffers.values())
    )
    shared = [getattr(modules[layer], name) for layer, name in names]
    return copy.deepcopy(network, {id(t): t for t in shared if holders[id(t)] == 1})


def unused(network: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> nn.Module:
    """Return a copy of the dense ``network`` in which nothing uses the channels that are not kept.

    It computes what ``compress`` must compute: the weights that would read those channels are zero.
    """
    copied = copy.deepcopy(network)
    modules = dict(copied.named_modules())
    wanted = masks(groups, kept)
    for group in groups:
        for member in group.members:
            if member.role == "uses":
                weight = modules[member.layer].weight
                assert isinstance(weight, Tensor)
                weight.data[:, torch.from_numpy(~wanted[member.layer, member.dim])] = 0
    return copied


def masks(groups: Sequence[ChannelGroup], kept: Kept) -> dict[tuple[str, Dim], Mask]:
    """Return for each coupled layer dimension which dense positions stay, bool ``[size]``."""
    result: dict[tuple[str, Dim], Mask] = {}
    for group in groups:
        stays = np.ones(group.channels, dtype=bool)
        if group.name in kept:
            stays[:] = False
            stays[np.asarray(kept[group.name], dtype=np.int64)] = True
        for member in group.members:
            mask = result.setdefault((member.layer, member.dim), np.ones(member.size, dtype=bool))
            mask[member.index] &= stays[member.channel]
    return result


def positions(mask: Mask | None) -> Tensor | None:
    """Return where a mask is true, ascending; ``None`` where there is no mask."""
    return None if mask is None else torch.from_numpy(np.flatnonzero(mask))


def _slice(module: nn.Module, dim: Dim, keep: Tensor) -> None:
    """Keep the positions ``keep`` of one dimension of one layer, in place."""
    for name in _sliced_names(module, dim):
        _slice_tensor(module, name, 0 if dim == "out" else 1, keep)
    if isinstance(module, (_BatchNorm, nn.PReLU)):
        if isinstance(module, _BatchNorm):
            module.num_features = len(keep)
        else:
            module.num_parameters = len(keep)
        return
    if isinstance(module, nn.Linear):
        setattr(module, f"{dim}_features", len(keep))
        return
    if is_depthwise(module):
        module.in_channels = module.groups = len(keep)  # type: ignore[assignment]
    groups = module.groups if dim == "in" and is_grouped(module) else 1
    setattr(module, f"{dim}_channels", groups * len(keep))


def _sliced_names(module: nn.Module, dim: Dim) -> tuple[str, ...]:
    """Return the names of a layer's tensors, where it has them, that have the dimension."""
    if isinstance(module, (_BatchNorm, nn.PReLU)):
        return ("weight", "bias", "running_mean", "running_var")
    return ("weight", "bias") if dim == "out" else ("weight",)


def _slice_tensor(module: nn.Module, name: str, dim: int, keep: Tensor) -> None:
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    sliced = tensor.detach().index_select(dim, keep.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        sliced = nn.Parameter(sliced, requires_grad=tensor.requires_grad)
    setattr(module, name, sliced)
