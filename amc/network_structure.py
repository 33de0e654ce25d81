"""How a network's operations and parameters depend on the widths of its sites.

Every channel dimension of every operation and parameter is an affine function of the sites'
widths, ``dense - coefficients @ removed``: sums where channels are concatenated, multiples where
they are flattened. The coefficients are read off the network with one site narrowed at a time, and
checked on networks with all sites narrowed; no layer type is known here by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from amc.compress import remove_blocks
from amc.deploy import deployed
from amc.errors import InputError
from amc.kernels.patterns import KEEP
from amc.latency.ops import OpCall, OpTemplate
from amc.latency.sampling import DENSITIES, KernelRequest
from amc.latency.trace import trace_ops
from amc.patterned import PatternedOp, patterned_ops
from amc.sites import Site
from amc.sparsify import LayerPattern, sparse_layers, sparsified

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Build = Callable[[Sequence[int]], nn.Module]

MANY_SUMS = 4096  # more reachable widths than this on one axis are taken as a whole range


@dataclass(frozen=True)
class Affine:
    """Numbers that follow the widths: ``dense - removed @ coefficients``.

    ``dense`` is ``[n]``; ``coefficients`` ``[sites, n]``; ``removed`` ``[B, sites]`` are channels.
    """

    dense: Floats
    coefficients: Floats

    def at(self, removed: Ints) -> Ints:
        """Return the numbers ``[B, n]``, which are whole for legal widths."""
        return np.rint(self.dense - removed @ self.coefficients).astype(np.int64)


@dataclass(frozen=True)
class Block:
    """What goes with a block: the position of its site, of operations and of parameters."""

    site: int
    ops: tuple[int, ...]
    parameters: tuple[int, ...]


@dataclass(frozen=True)
class NetworkStructure:
    """The operations and parameters of a network as functions of its sites' widths.

    ``ops`` are the dense network's; ``dims`` gives all their widths, end to end; ``macs_scale[i]``
    times the product of its widths are the MACs of operation i. ``shapes`` gives the lengths of all
    parameters, end to end, ``ranks`` how many each has, ``item_bytes`` the size of one number.
    ``patterned`` are the operations whose weights sites decide on, ``blocks`` those that go with a
    block.
    """

    sites: tuple[Site, ...]
    ops: tuple[OpCall, ...]
    dims: Affine
    macs_scale: Floats
    shapes: Affine
    ranks: tuple[int, ...]
    item_bytes: Ints
    batch_size: int
    patterned: tuple[PatternedOp, ...] = ()
    blocks: tuple[Block, ...] = ()

    @property
    def dense_widths(self) -> tuple[int, ...]:
        """Every site at its full width."""
        return tuple(site.full for site in self.sites)

    def removed(self, widths: NDArray[Any]) -> Ints:
        """Return how much of each site is gone, ``[B, sites]``, in the unit of its widths."""
        return np.asarray(self.dense_widths, dtype=np.int64) - np.asarray(widths, dtype=np.int64)

    def kernel_requests(self) -> list[KernelRequest]:
        """Return every kernel that a network of these sites can run, with its reachable widths."""
        found: dict[str, tuple[OpTemplate, list[set[int]], list[int]]] = {}
        parts = slices([len(op.dims) for op in self.ops])
        for position, (op, part) in enumerate(zip(self.ops, parts, strict=True)):
            entry = found.setdefault(op.kernel, (op.template, [set() for _ in op.dims], []))
            entry[2].append(position)
            for widths, column in zip(entry[1], range(part.start, part.stop), strict=True):
                widths.update(self._reachable(column))
        return [
            KernelRequest(template, tuple(tuple(sorted(w)) for w in reachable), tuple(positions))
            for template, reachable, positions in found.values()
        ]

    def reachable(self, position: int) -> tuple[tuple[int, ...], ...]:
        """Return for each axis of one operation every width that it can take, ascending."""
        part = slices([len(op.dims) for op in self.ops])[position]
        return tuple(tuple(sorted(self._reachable(c))) for c in range(part.start, part.stop))

    def _reachable(self, column: int) -> set[int]:
        """Return every value that one width of one operation can take."""
        values = {round(self.dims.dense[column])}
        for site, step in zip(self.sites, self.dims.coefficients[:, column], strict=True):
            if step:
                losses = [round(step * (site.full - width)) for width in site.widths]
                values = {value - loss for value, loss in itertools.product(values, losses)}
            if len(values) > MANY_SUMS:
                values = set(range(min(values), max(values) + 1))
        return values


def network_structure(
    build: Build, sites: Sequence[Site], inputs: tuple[Tensor, ...]
) -> NetworkStructure:
    """Return the structure of the network that ``build(widths)`` makes, seen on ``inputs``.

    ``inputs`` are one batch of the size that latency is meant for. Raises ``InputError`` where some
    dimension does not follow the widths.
    """
    dense = tuple(site.full for site in sites)
    whole = _Probe.of(build, dense, inputs)
    op_columns, shape_columns = [], []
    for index, site in enumerate(sites):
        if len(site.widths) < 2 or site.decides != "channels":
            op_columns.append(np.zeros(len(whole.dims)))
            shape_columns.append(np.zeros(len(whole.shapes)))
            continue
        narrow = list(dense)
        narrow[index] = site.widths[-2]
        probe = _Probe.of(build, narrow, inputs)
        whole.check_comparable(probe, site.name)
        step = site.full - narrow[index]
        op_columns.append((whole.dims - probe.dims) / step)
        shape_columns.append((whole.shapes - probe.shapes) / step)
    structure = NetworkStructure(
        tuple(sites),
        tuple(whole.ops),
        Affine(whole.dims, np.array(op_columns).reshape(len(dense), -1)),
        np.array([op.macs / np.prod(op.dims, dtype=np.float64) for op in whole.ops]),
        Affine(whole.shapes, np.array(shape_columns).reshape(len(dense), -1)),
        tuple(whole.ranks),
        np.array(whole.item_bytes, dtype=np.int64),
        len(inputs[0]),
        patterned_ops(whole.deployed, inputs, whole.ops, whole.names, sites),
        _blocks(build(dense), inputs, whole, sites),
    )
    for widths in _test_widths(sites):
        _verify(structure, whole, _Probe.of(build, widths, inputs), widths)
    return structure


@dataclass(frozen=True)
class _Probe:
    """One network of the family: its operations, and the shapes of its parameters."""

    deployed: nn.Module
    ops: list[OpCall]
    dims: Floats
    names: list[str]
    shapes: Floats
    ranks: list[int]
    item_bytes: list[int]

    @staticmethod
    def of(build: Build, widths: Sequence[int], inputs: tuple[Tensor, ...]) -> _Probe:
        network = build(widths)
        folded = deployed(network, inputs)
        ops = trace_ops(folded, inputs)
        parameters = dict(network.named_parameters())
        return _Probe(
            folded,
            ops,
            np.array([width for op in ops for width in op.dims], dtype=np.float64),
            list(parameters),
            np.array([n for p in parameters.values() for n in p.shape], dtype=np.float64),
            [p.dim() for p in parameters.values()],
            [p.element_size() for p in parameters.values()],
        )

    def check_comparable(self, other: _Probe, site: str) -> None:
        """Raise ``InputError`` unless ``other`` runs the same kernels at other widths."""
        if self.names != other.names or self.ranks != other.ranks:
            raise InputError(
                f"narrowing site {site!r} changes which parameters there are; exclude it with "
                "sites.exclude"
            )
        for mine, its in itertools.zip_longest(self.ops, other.ops):
            if mine is None or its is None or mine.kernel != its.kernel:
                raise InputError(
                    f"narrowing site {site!r} changes more than widths: "
                    f"{_described(mine)} becomes {_described(its)}; exclude it with sites.exclude"
                )


def _blocks(
    network: nn.Module, inputs: tuple[Tensor, ...], whole: _Probe, sites: Sequence[Site]
) -> tuple[Block, ...]:
    """Return what goes with each block, read off the network without it."""
    found = []
    for position, site in enumerate(sites):
        if site.decides != "block":
            continue
        rest = trace_ops(deployed(remove_blocks(network, [site.name]), inputs), inputs)
        mine, its = ([(op.kernel, op.dims) for op in ops] for ops in (whole.ops, rest))
        count = len(mine) - len(its)
        # Blocks that are alike can stand for each other: the one is meant whose layers these are.
        starts = [s for s in range(len(its) + 1) if mine[:s] + mine[s + count :] == its]
        if not starts:
            raise InputError(
                f"removing block {site.name!r} changes more than its own operations; exclude it "
                "with sites.exclude"
            )
        own = np.array([op.layer.startswith(f"{site.name}.") for op in whole.ops])
        first = max(starts, key=lambda s: int(own[s : s + count].sum()))
        ops = range(first, first + count)
        inside = [i for i, name in enumerate(whole.names) if name.startswith(f"{site.name}.")]
        found.append(Block(position, tuple(ops), tuple(inside)))
    return tuple(found)


def _described(op: OpCall | None) -> str:
    return "no operation" if op is None else f"{op.kernel} in layer {op.layer!r}"


def _test_widths(sites: Sequence[Site]) -> list[list[int]]:
    """Return two candidates that narrow all sites together: to the smallest, and unevenly."""
    uneven = [site.widths[(7 * i + 3) % len(site.widths)] for i, site in enumerate(sites)]
    return [[site.widths[0] for site in sites], uneven]


def _verify(
    structure: NetworkStructure, whole: _Probe, probe: _Probe, widths: Sequence[int]
) -> None:
    """Raise ``InputError`` where a network that really exists differs from what is computed."""
    whole.check_comparable(probe, "all together")
    removed = structure.removed(np.asarray([widths]))
    dims, shapes = structure.dims.at(removed)[0], structure.shapes.at(removed)[0]
    parts = slices([len(op.dims) for op in probe.ops])
    for op, part, scale in zip(probe.ops, parts, structure.macs_scale, strict=True):
        macs = scale * np.prod(dims[part], dtype=np.float64)
        if tuple(dims[part]) != op.dims or abs(macs - op.macs) > 0.5:
            raise InputError(
                f"the widths of {op.kernel} in layer {op.layer!r} should be {dims[part].tolist()} "
                f"at site widths {list(widths)}, but are {list(op.dims)}; they do not follow the "
                "sites linearly, so its costs are unknown; exclude the layer with sites.exclude"
            )
    if not np.array_equal(shapes, probe.shapes):
        raise InputError(
            f"parameter shapes at site widths {list(widths)} do not follow the sites linearly; "
            "exclude sites with sites.exclude"
        )


def sparse_requests(
    structure: NetworkStructure,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    patterns: Sequence[str],
) -> list[KernelRequest]:
    """Return the sparse kernels that layers of ``network`` run in each of ``patterns``.

    With the widths that the layers reach in ``structure``, which is of the same network and inputs,
    and any density from 1 to 100% where the pattern leaves it free.
    """
    dense = deployed(network, inputs)
    found: dict[str, tuple[OpTemplate, list[set[int]], list[int]]] = {}
    for pattern in patterns:
        sparsity = None if pattern in KEEP else 0.5
        layers = {name: LayerPattern(pattern, sparsity) for name in sparse_layers(dense)}
        for op in trace_ops(sparsified(dense, layers), inputs):
            if op.template.kernel == "dense":
                continue
            axes = op.template.axes
            entry = found.setdefault(op.kernel, (op.template, [set() for _ in axes], []))
            for position in _positions(structure, op.layer):
                reachable = (*structure.reachable(position), DENSITIES)
                for widths, its in zip(entry[1], reachable, strict=False):
                    widths.update(its)
                entry[2].append(position)
    return [
        KernelRequest(template, tuple(tuple(sorted(w)) for w in widths), tuple(sorted(positions)))
        for template, widths, positions in found.values()
    ]


def _positions(structure: NetworkStructure, layer: str) -> list[int]:
    """Return where in the order of operations a layer's own product is."""
    return [
        position
        for position, op in enumerate(structure.ops)
        if op.layer == layer and op.template.op.split(".")[1] in {"conv2d", "linear"}
    ]


def slices(counts: Sequence[int]) -> list[slice]:
    """Return the slices of consecutive parts of the given lengths."""
    ends = np.cumsum([0, *counts])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
