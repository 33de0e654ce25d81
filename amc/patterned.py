"""Which operations of a network sites make sparse, and by which kernels these then run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from amc.errors import InputError
from amc.latency.ops import OpCall, OpTemplate
from amc.latency.trace import trace_ops
from amc.sites import THOUSAND, Site
from amc.sparsify import LayerPattern, sparsified

LAYERS = ("conv2d", "linear")


@dataclass(frozen=True)
class PatternedOp:
    """One layer whose weight a site decides on, by positions in a ``NetworkStructure``.

    ``op`` is the layer's operation, ``parameter`` its weight, ``site`` the site; ``relu`` the ReLU
    that a sparse layer runs itself, ``None`` where there is none. ``kernel`` has the lengths of a
    convolution's kernel, and ``kernels`` the operation that runs each pattern of the site.
    """

    op: int
    parameter: int
    site: int
    relu: int | None
    kernel: tuple[int, ...]
    kernels: Mapping[str, OpTemplate]


def patterned_ops(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    ops: Sequence[OpCall],
    parameters: Sequence[str],
    sites: Sequence[Site],
) -> tuple[PatternedOp, ...]:
    """Return the operations that sites decide on, of a ``deployed`` network that runs ``ops``."""
    found = []
    for position, site in enumerate(sites):
        if site.decides != "weights":
            continue
        at = [
            i for i, op in enumerate(ops) if op.layer == site.layer and op.template.name in LAYERS
        ]
        if len(at) != 1:
            raise InputError(
                f"layer {site.layer!r} runs {len(at)} times in one forward pass, so that its "
                "sparse cost is unknown; exclude it with sites.exclude"
            )
        kernels, relu = _kernels(network, inputs, ops, at[0], site)
        weight = network.get_submodule(site.layer).weight
        assert isinstance(weight, Tensor)
        found.append(
            PatternedOp(
                at[0],
                parameters.index(site.name),
                position,
                relu,
                tuple(weight.shape[2:]),
                kernels,
            )
        )
    return tuple(found)


def _kernels(
    network: nn.Module, inputs: tuple[Tensor, ...], ops: Sequence[OpCall], at: int, site: Site
) -> tuple[dict[str, OpTemplate], int | None]:
    """Return what runs each pattern of one site, and the ReLU that is then no operation of its own.

    Both are read off the network with this layer alone sparse.
    """
    kernels: dict[str, OpTemplate] = {}
    relu = None
    for width, pattern in site.patterns.items():
        if pattern in kernels:
            continue
        how = LayerPattern(pattern, 1 - width / THOUSAND)
        traced = trace_ops(sparsified(network, {site.layer: how}), inputs)
        (sparse,) = [op for op in traced if op.template.kernel != "dense"]
        kernels[pattern] = sparse.template
        rest = [op.kernel for op in traced if op is not sparse]
        gone = _gone([op.kernel for i, op in enumerate(ops) if i != at], rest)
        relu = None if gone is None else gone + (gone >= at)
    return kernels, relu


def _gone(before: Sequence[str], after: Sequence[str]) -> int | None:
    """Return where ``before`` has the one entry more than ``after``, ``None`` where both agree."""
    if len(before) == len(after):
        return None
    pairs = itertools.zip_longest(before, after)
    return next(i for i, (mine, its) in enumerate(pairs) if mine != its)
