"""Plans that narrow layers and make others sparse, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from amc.compress import compress, kept_of
from amc.deploy import deployed
from amc.kernels.patterns import KEEP
from amc.plan import Plan, digest
from amc.space import SearchSpace
from amc.sparsify import LayerPattern, sparse_layers, sparsified
from amc.task import LoadedTask

SPARSITIES = (0.3, 0.95)  # where a pattern leaves it free


@dataclass(frozen=True)
class MixedPlan:
    """A plan of channels, and of every layer that can be sparse the pattern that it runs in."""

    channels: Plan
    layers: Mapping[str, LayerPattern]

    @property
    def digest(self) -> str:
        """The content digest."""
        patterns = {name: [how.pattern, how.sparsity] for name, how in self.layers.items()}
        return digest({"choices": self.channels.as_json(), "layers": patterns})

    def network(self, task: LoadedTask, space: SearchSpace) -> nn.Module:
        """Return the network as it is deployed."""
        kept = kept_of(self.channels)
        folded = deployed(compress(task.network, space.groups, kept), task.inputs)
        return sparsified(folded, self.layers)


def random_plans(
    task: LoadedTask,
    space: SearchSpace,
    count: int,
    seed: int | Sequence[int],
    patterns: Sequence[str],
) -> list[MixedPlan]:
    """Return plans with every width, every layer's pattern and its sparsity drawn on their own.

    ``patterns`` may hold ``dense``. ``seed`` is one of numpy's, a number or several.
    """
    rng = np.random.default_rng(seed)
    layers = sparse_layers(deployed(task.network, task.inputs))
    plans = []
    for _ in range(count):
        widths = [int(rng.choice(site.widths)) for site in space.sites]
        chosen: dict[str, LayerPattern] = {}
        for layer in layers:
            pattern = str(rng.choice(patterns))
            sparsity = round(float(rng.uniform(*SPARSITIES)), 3)
            if pattern != "dense":
                chosen[layer] = LayerPattern(pattern, None if pattern in KEEP else sparsity)
        plans.append(MixedPlan(space.plan(widths), chosen))
    return plans
