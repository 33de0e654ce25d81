"""Making layers of a compressed network sparse: which weights go, by a criterion of the run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from amc.compress import kept_of, masks, positions
from amc.coupling import ChannelGroup
from amc.criteria.base import Criterion, LayerView, Need, Zeros
from amc.criteria.chosen import of_weights
from amc.data import Data
from amc.kernels.patterns import keep_largest
from amc.layer_statistics import Statistics, relative_error
from amc.plan import Plan
from amc.reconstruction.curves import ErrorCurve
from amc.sites import Site
from amc.sparsify import layer_patterns

REMEMBERED_BYTES = 2**27  # of pruned weights that took long to find


class Pruner:
    """Prunes networks that are compressed from one dense network, in place.

    Statistics are the dense network's on ``calibration``, gathered when they are first needed.
    """

    def __init__(
        self, name: str, network: nn.Module, groups: Sequence[ChannelGroup], calibration: Data
    ) -> None:
        self._criterion = of_weights(name)
        self._network, self._groups = network, tuple(groups)
        self._statistics = Statistics(network, calibration)
        self._remembered: OrderedDict[tuple[str, str, float, bytes], Tensor] = OrderedDict()

    def prune(self, network: nn.Module, plan: Plan) -> None:
        """Give the layers that ``plan`` makes sparse their zeros.

        ``network`` is compressed to the channels that the plan keeps, with any weights.
        """
        layers = layer_patterns(plan)
        if not layers:
            return
        present = masks(self._groups, kept_of(plan))
        for name, how in layers.items():
            weight: Any = network.get_submodule(name).weight
            assert how.sparsity is not None
            zeros = Zeros(how.pattern, how.sparsity)
            weight.data.copy_(self._pruned(name, weight.detach().contiguous(), zeros, present))

    def _pruned(
        self, layer: str, weight: Tensor, zeros: Zeros, present: Mapping[Any, Any]
    ) -> Tensor:
        if not self._criterion.needs:
            return self._found(layer, weight, zeros, present)
        content = hashlib.sha256(weight.numpy().tobytes()).digest()
        key = layer, zeros.pattern, zeros.sparsity, content
        if key not in self._remembered:
            self._remembered[key] = self._found(layer, weight, zeros, present)
        self._remembered.move_to_end(key)
        found = self._remembered[key]
        while sum(4 * t.numel() for t in self._remembered.values()) > REMEMBERED_BYTES:
            self._remembered.popitem(last=False)
        return found

    def _found(
        self, layer: str, weight: Tensor, zeros: Zeros, present: Mapping[Any, Any]
    ) -> Tensor:
        """Return the pruned weight."""
        criterion = self._criterion
        outputs, inputs = (positions(present.get((layer, dim))) for dim in ("out", "in"))
        view = self._statistics.view(layer, weight, criterion.needs, outputs, inputs)
        return pruned(criterion, view, zeros)

    def curves(self, sites: Sequence[Site]) -> dict[str, ErrorCurve]:
        """Return the error of each layer at each density that a site allows, all else dense.

        It is that of the layer's outputs on the dense network's inputs, without any recovery; by
        the site's name, in thousandths, between the legal ones interpolated.
        """
        needs: set[Need] = {"moments", *self._criterion.needs}
        found = {}
        for site in sites:
            if site.decides != "weights" or not self._statistics.knows(site.layer):
                continue
            weight = self._network.get_submodule(site.layer).weight
            assert isinstance(weight, Tensor)
            view = self._statistics.view(site.layer, weight.detach().contiguous(), needs)
            known = {0: 1.0, site.full: 0.0}
            for width, pattern in site.patterns.items():
                zeros = Zeros(pattern, 1 - width / site.full)
                known[width] = relative_error(view, pruned(self._criterion, view, zeros))
            marks = sorted(known)
            errors = np.interp(np.arange(site.full + 1), marks, [known[mark] for mark in marks])
            found[site.name] = ErrorCurve(errors, {site.layer: errors})
        return found


def pruned(
    criterion: Criterion, layer: LayerView, zeros: Zeros, *, within_rows: bool = False
) -> Tensor:
    """Return the weight of a layer with the zeros that a criterion chooses, float32.

    With ``within_rows`` single weights compete within their output row, whatever the criterion.
    """
    if criterion.prune is not None:
        return criterion.prune(layer, zeros).float()
    rows = within_rows or criterion.within_rows
    scores = criterion.scores(layer).float()
    return keep_largest(layer.weight, zeros.pattern, zeros.sparsity, scores, within_rows=rows)
