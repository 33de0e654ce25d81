"""``amc bench criteria``: what each criterion's zeros cost every layer, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from amc.criteria import CRITERIA
from amc.criteria.base import Criterion, Need, Zeros
from amc.layer_statistics import Statistics, relative_error
from amc.pruning import pruned
from amc.registry import lookup
from amc.reporting import Reporter
from amc.sparsify import sparse_layers
from amc.task import LoadedTask

NETWORKS = ("resnet20", "mobilenet")
PATTERNS: Mapping[str, float] = {"csr": 0.5, "2:4": 0.5}
EXAMPLES = 1000
# Each should lose no more than the next one, in the median over layers.
ORDER = ("second_order", "wanda", "magnitude_l1")
GROUP = 4  # channels: layers with fewer have no N:M pattern


def criteria(task: LoadedTask, reporter: Reporter) -> list[dict[str, Any]]:
    """Return a row for each pattern and criterion of single weights.

    ``relative_error`` is, for every layer with four input channels and more, the squared error of
    its outputs on the dense network's inputs (``EXAMPLES`` training examples), over their power;
    all criteria leave as many zeros in each row. ``out_of_order`` lists the layers at which a
    criterion of ``ORDER`` loses more than the next one.
    """
    statistics = Statistics(task.network, task.train[:EXAMPLES].channels_last())
    names = [name for name in CRITERIA if not lookup(CRITERIA, name, "").of_weights]
    layers = {n: _weight(task, n) for n in sparse_layers(task.network)}
    layers = {name: weight for name, weight in layers.items() if weight.shape[1] >= GROUP}
    rows = []
    with reporter.task(f"pruning the layers of {task.name}", len(PATTERNS) * len(names)) as bar:
        for pattern, sparsity in PATTERNS.items():
            found: dict[str, dict[str, float]] = {}
            for name in names:
                criterion: Criterion = lookup(CRITERIA, name, "")
                needs: set[Need] = {"moments", *criterion.needs}
                views = {n: statistics.view(n, weight, needs) for n, weight in layers.items()}
                zeros = Zeros(pattern, sparsity)
                found[name] = {
                    n: relative_error(v, pruned(criterion, v, zeros, within_rows=True))
                    for n, v in views.items()
                }
                bar.advance(1, f"{pattern} by {name}")
            broken = _out_of_order(found)
            rows += [
                {
                    "network": task.name,
                    "pattern": pattern,
                    "sparsity": sparsity,
                    "criterion": name,
                    "median": float(np.median(list(errors.values()))),
                    "largest": max(errors.values()),
                    "out_of_order": broken.get(name, []),
                    "relative_error": errors,
                }
                for name, errors in found.items()
            ]
    return rows


def _weight(task: LoadedTask, layer: str) -> Tensor:
    weight = task.network.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight.detach().contiguous()


def _out_of_order(found: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Return the layers at which each criterion loses more than the next one of ``ORDER``."""
    return {
        better: [layer for layer in found[better] if found[better][layer] > found[worse][layer]]
        for better, worse in pairwise(ORDER)
    }
