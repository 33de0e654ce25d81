"""What layers cost whose weights stand in patterns: stored weights, bytes, the fastest kernel.

At each density of a layer the fastest kernel is taken that the table knows for it, torch's dense
one included: so zeros never make a layer slower.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from amc.cost_lookup import Grids, Priced
from amc.kernels.patterns import KERNEL_OF
from amc.kernels.sizes import packed_bytes, stored_weights
from amc.latency.calls import DENSE_AFTER_SPARSE
from amc.latency.table import LatencyTable
from amc.network_structure import Floats, Ints, NetworkStructure
from amc.patterned import PatternedOp
from amc.sites import THOUSAND

KERNELS = ("dense", *dict.fromkeys(KERNEL_OF.values()))
FLOAT32 = 4  # bytes: other weights are never sparse


class PatternCosts:
    """The costs of the patterned operations of a structure, at any widths and densities."""

    def __init__(self, structure: NetworkStructure, table: LatencyTable) -> None:
        ops = structure.patterned
        self._ops = np.array([its.op for its in ops])
        self._parameters = np.array([its.parameter for its in ops])
        self._sites = np.array([its.site for its in ops])
        self._relus = [its.relu for its in ops if its.relu is not None]
        taps = np.array([math.prod(its.kernel) for its in ops])
        self._positions = structure.macs_scale[self._ops] / taps
        # A row of the grids holds an operation's own widths, then the width of its site.
        lattices = [(*structure.reachable(o.op), structure.sites[o.site].widths) for o in ops]
        self._grids = Grids(lattices, range(len(ops)))
        both = list(zip(ops, self._grids.points, strict=True))
        sizes = [_sizes(structure, its, points) for its, points in both]
        self._stored, self._bytes = np.concatenate(sizes, axis=1)
        fastest = [_fastest(structure, its, points, table) for its, points in both]
        self._seconds = np.concatenate([seconds for seconds, _ in fastest])
        self._kernel = np.concatenate([kernel for _, kernel in fastest])
        self._layers = [i for i, op in enumerate(structure.ops) if op.call_kind == "layer"]
        position = {op: i for i, op in enumerate(self._layers)}
        self._blocks = [
            (block.site, [position[op] for op in block.ops if op in position])
            for block in structure.blocks
        ]
        self._after_sparse_s = table.call_overhead_s.get(DENSE_AFTER_SPARSE, 0.0)

    def kernels(self, dims: Ints, widths: Ints) -> NDArray[np.int64]:
        """Return which of ``KERNELS`` runs each operation, ``[B, patterned]``."""
        index = self._index(dims, widths)
        assert index is not None
        return self._kernel[index]

    def put(self, priced: Priced, dims: Ints, widths: Ints) -> bool:
        """Write the operations' costs, with those of ReLUs that they may run, into ``priced``.

        ``dims`` are the widths of all operations, ``widths`` ``[B, sites]`` those of sites. Returns
        whether all of them are legal.
        """
        index = self._index(dims, widths)
        if index is None:
            return False
        priced.seconds[:, self._relus] = 0.0
        priced.seconds[:, self._ops] = self._seconds[index]
        priced.macs[:, self._ops] = self._stored[index] * self._positions
        priced.sizes[:, self._parameters] = self._stored[index]
        priced.weight_bytes[:, self._parameters] = self._bytes[index]
        sparse = np.zeros(priced.seconds.shape, dtype=bool)
        sparse[:, self._ops] = self._kernel[index] > 0
        layers = sparse[:, self._layers]
        after_sparse = self._before(layers, widths) & ~layers[:, 1:]
        priced.seconds[:, self._layers[1:]] += self._after_sparse_s * after_sparse
        return True

    def _before(self, sparse: NDArray[np.bool_], widths: Ints) -> NDArray[np.bool_]:
        """Return whether the layer that runs before each but the first is sparse.

        ``sparse`` is ``[B, layers]``. What runs before may stand before a block that is gone.
        """
        if not self._blocks:
            return sparse[:, :-1]
        there = np.ones(sparse.shape, dtype=bool)
        for site, layers in self._blocks:
            there[:, layers] &= np.asarray(widths)[:, site, None] > 0
        last = np.maximum.accumulate(np.where(there, np.arange(len(there[0])), 0), axis=1)
        return np.take_along_axis(sparse & there, last[:, :-1], axis=1)

    def _index(self, dims: Ints, widths: Ints) -> Ints | None:
        own = dims[:, self._ops, :2]
        density = np.asarray(widths)[:, self._sites, None]
        return self._grids.at(np.concatenate([own, density], axis=2))


def _sizes(structure: NetworkStructure, its: PatternedOp, points: Ints) -> Ints:
    """Return how many weights are stored at each point, and in how many bytes, ``[2, points]``.

    Dense where that takes fewer bytes.
    """
    c_in, c_out, widths = points.T
    whole = c_in * c_out * math.prod(its.kernel)
    sizes = np.stack([whole, FLOAT32 * whole])
    for width, pattern in structure.sites[its.site].patterns.items():
        own = widths == width
        shape = c_out[own], c_in[own], its.kernel, 1 - width / THOUSAND
        sizes[0, own] = stored_weights(pattern, *shape)
        sizes[1, own] = np.minimum(sizes[1, own], packed_bytes(pattern, *shape))
    return sizes


def _fastest(
    structure: NetworkStructure, its: PatternedOp, points: Ints, table: LatencyTable
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the seconds of one operation at each point, and which of ``KERNELS`` takes so long.

    With the ReLU behind it, where that is one which a sparse layer runs itself.
    """
    site = structure.sites[its.site]
    seconds = table.latencies(structure.ops[its.op].kernel, points[:, :2])
    if its.relu is not None:
        seconds = seconds + table.latencies(structure.ops[its.relu].kernel, points[:, 1:2])
    kernel = np.zeros(len(points), dtype=np.int64)
    for pattern, template in its.kernels.items():
        its_widths = [width for width, its_own in site.patterns.items() if its_own == pattern]
        own = np.flatnonzero(np.isin(points[:, 2], its_widths))
        sparse = table.latencies(template.key, points[own, : len(template.axes)])
        faster = own[sparse < seconds[own]]
        seconds[faster] = sparse[sparse < seconds[own]]
        kernel[faster] = KERNELS.index(template.kernel)
    return seconds, kernel
