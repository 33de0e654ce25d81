"""Least squares on the dense network's inputs: prepared once, then back-substitution a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc.compress import Kept, Mask, masks
from amc.coupling import ChannelGroup, Dim
from amc.data import Data
from amc.reconstruction.consumers import Consumer, Orders, consumers_of, is_prefix
from amc.reconstruction.curves import ErrorCurve, ErrorCurves
from amc.reconstruction.moments import MAX_COLUMNS, Moments, gather
from amc.reconstruction.rows import Layer, column_count, set_weight_matrix, weight_matrix
from amc.reconstruction.solve import (
    RIDGE,
    Factor,
    dependent_columns,
    regularised,
    solve,
)

REMEMBERED_VALUES = 2**23  # float64 values of solutions that do not follow an order: 64 MB


class LeastSquares:
    """Re-solves the layers that read removed channels, from the dense network's input moments.

    As in AMC's published code, targets are the dense network's outputs and inputs those of the
    dense network, so layers are independent of each other. Deviations: all examples and positions
    count (up to ``moments.MAX_ROWS`` rows a layer), kernels of any size are solved for, and a
    layer's bias along with its weight. A layer without a bias stays without one.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[ChannelGroup],
        orders: Orders,
        calibration: Data,
        on_batch: Callable[[int], None] = lambda examples: None,
    ) -> None:
        """Gather and factorise. ``orders`` has each group's channels, the most important first.

        ``on_batch`` is told after each batch of ``calibration`` how many examples it had.
        """
        self._groups, self._orders = tuple(groups), orders
        found = consumers_of(network, groups)
        self._consumers = {
            name: one for name, one in found.items() if column_count(one.layer) <= MAX_COLUMNS
        }
        layers = {name: one.layer for name, one in self._consumers.items()}
        moments = gather(network, layers, calibration, on_batch)
        self._grams = {name: regularised(one.gram) for name, one in moments.items()}
        self._weights = {name: weight_matrix(c.layer) for name, c in self._consumers.items()}
        self._factors: dict[str, tuple[Factor, NDArray[np.int64]]] = {}
        for name, consumer in self._consumers.items():
            group = consumer.only_group
            if group is not None and group in orders:
                self._factors[name] = self._factor(consumer, group)
        self._solutions: dict[tuple[str, bytes], Tensor] = {}
        dependent = {
            name: dependent_columns(
                self._factors[name][0].lower
                if name in self._factors
                else torch.linalg.cholesky(gram)
            )
            for name, gram in self._grams.items()
        }
        wide = [name for name in found if name not in self._consumers]
        self.notes = (*_too_wide(wide), *_ill_conditioned(moments, dependent))

    def apply(self, smaller: nn.Module, kept: Kept) -> None:
        """Give the compressed network of ``kept`` its reconstructed weights, in place.

        Layers whose inputs are all there keep their weights; those of blocks that are gone are
        left out.
        """
        present = masks(self._groups, kept)
        modules = dict(smaller.named_modules())
        for name, consumer in self._consumers.items():
            if name not in modules or present[name, "in"].all():
                continue
            solved = self._solved(consumer, kept, present)
            set_weight_matrix(cast(Layer, modules[name]), solved)

    def curves(self) -> ErrorCurves:
        """Return the error curve of every site that has consumers and an order."""
        curves = {}
        for group in self._groups:
            readers = [c for c in self._consumers.values() if group.name in c.members]
            left, power = {}, {}
            for one in readers if group.name in self._orders else []:
                factor, counts = self._factors.get(one.name) or self._factor(one, group.name)
                unexplained = factor.unexplained().numpy()
                left[one.name] = unexplained[counts]
                power[one.name] = float(unexplained[int(one.layer.bias is not None)])
            if left:
                curves[group.name] = ErrorCurve.of(left, power)
        return ErrorCurves(curves)

    def _factor(self, consumer: Consumer, group: str) -> tuple[Factor, NDArray[np.int64]]:
        """Return the factor along a group's order, and how many columns each width has.

        Where the layer has a bias, its column comes first of all.
        """
        order, counts = consumer.order(group, self._orders[group])
        if consumer.layer.bias is not None:
            ones = column_count(consumer.layer) - 1
            order = torch.cat([torch.tensor([ones]), order[order != ones]])
        name = consumer.name
        return Factor.of(self._grams[name], self._weights[name], order), counts

    def _solved(
        self, consumer: Consumer, kept: Kept, present: dict[tuple[str, Dim], Mask]
    ) -> Tensor:
        """Return the new weight matrix, of kept outputs and inputs alone.

        Of a grouped convolution all groups keep the same outputs, as ``amc.units`` says.
        """
        name, weight = consumer.name, self._weights[consumer.name]
        stay = present.get((name, "out"))
        stay = np.ones(weight.shape[:2], dtype=bool) if stay is None else stay
        outputs = torch.from_numpy(np.flatnonzero(stay.reshape(weight.shape[:2])[0]))
        group = consumer.only_group
        if name in self._factors and group and is_prefix(self._orders[group], kept, group):
            factor, counts = self._factors[name]
            return factor.solve(int(counts[len(kept[group])]), outputs)
        mask = present[name, "in"]
        key = name, mask.tobytes()
        if key not in self._solutions:
            if sum(one.numel() for one in self._solutions.values()) > REMEMBERED_VALUES:
                self._solutions.clear()
            columns = consumer.kept_columns(mask)
            self._solutions[key] = solve(self._grams[name], weight, columns)
        return self._solutions[key][:, outputs]


def _too_wide(names: Sequence[str]) -> tuple[str, ...]:
    """Return what to say of layers that are left out."""
    if not names:
        return ()
    listed = ", ".join(names)
    return (f"layers {listed} have more than {MAX_COLUMNS} columns and are not reconstructed",)


def _ill_conditioned(moments: Mapping[str, Moments], dependent: Mapping[str, int]) -> list[str]:
    """Return what to say of layers for which the ridge decides, or nothing."""
    listed = ", ".join(
        f"{name} ({count} of {moments[name].columns} columns, {moments[name].rows} rows)"
        for name, count in dependent.items()
        if count
    )
    if not listed:
        return []
    return [
        f"calibration inputs of {listed} are linearly dependent; a ridge of {RIDGE:g} of each "
        "column's power, towards the original weights, decides there"
    ]
