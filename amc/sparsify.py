"""Running layers of a deployed network on sparse kernels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from amc.errors import InputError
from amc.kernels.patterns import KERNEL_OF, STORED_AS, ZEROS, keep_largest
from amc.plan import Plan
from amc.registry import nearest

RELU_FUNCTIONS = (F.relu, torch.relu, F.relu_, torch.relu_)
RELU_METHODS = ("relu", "relu_")


@dataclass(frozen=True)
class LayerPattern:
    """How a layer is made sparse: ``sparsity`` in [0, 1), ``None`` where the pattern sets it.

    ``kernel`` runs it: ``dense`` is torch's own, ``None`` the one that is made for the pattern.
    """

    pattern: str
    sparsity: float | None = None
    kernel: str | None = None

    def __post_init__(self) -> None:
        """Refuse a pattern that no kernel runs."""
        if self.pattern not in ZEROS:
            close = nearest(self.pattern, list(ZEROS)) or "."
            raise InputError(
                f"pattern {self.pattern!r} is unknown{close} Known: {', '.join(ZEROS)}"
            )

    @property
    def stored_as(self) -> str:
        """The pattern of the kernels that the weight is packed in."""
        return STORED_AS.get(self.pattern, self.pattern)


def layer_patterns(plan: Plan) -> dict[str, LayerPattern]:
    """Return how each layer is made sparse of which ``plan`` decides so, by the layer's name."""
    return {
        site.removesuffix(".weight"): LayerPattern(c.pattern, c.sparsity, c.kernel)
        for site, c in plan.choices.items()
        if c.pattern != "dense"
    }


def sparse_layers(network: nn.Module) -> list[str]:
    """Return the names of the layers that can run on a sparse kernel, in the order of definition.

    Linear layers, and convolutions of images that have one group and pad with zeros.
    """
    return [name for name, layer in network.named_modules() if can_be_sparse(layer)]


def can_be_sparse(layer: nn.Module) -> bool:
    """Return whether a sparse kernel can run ``layer``; see ``sparse_layers``."""
    if type(layer) is nn.Linear:
        return layer.weight.dtype == torch.float32
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.dtype == torch.float32
    )


def sparsified(network: nn.Module, layers: Mapping[str, LayerPattern]) -> nn.Module:
    """Return a copy of a ``deployed`` network that runs the named layers on sparse kernels.

    Of each the largest magnitudes stay that its pattern and sparsity allow; BatchNorm is folded
    already, so that these are the weights that run. Otherwise it is as ``packed``.
    """
    result = copy.deepcopy(network)
    prune(result, layers)
    return packed(result, layers)


def prune(network: nn.Module, layers: Mapping[str, LayerPattern]) -> None:
    """Set weights of the named layers to 0, in place: of each the largest magnitudes stay.

    Raises ``InputError`` for a name that is no layer which a sparse kernel can run.
    """
    _check(network, layers)
    for name, how in layers.items():
        weight: Any = network.get_submodule(name).weight
        # Pruned in the default layout, which masks do not depend on.
        pruned = keep_largest(weight.detach().contiguous(), how.pattern, how.sparsity)
        weight.data.copy_(pruned)


def packed(network: nn.Module, layers: Mapping[str, LayerPattern]) -> nn.Module:
    """Return a copy of a ``deployed`` network that runs the named layers on their kernels.

    Their weights must have the zeros already. A ReLU that alone reads a sparse layer's output
    becomes part of the layer, where ``torch.fx`` traced the network. Raises ``InputError`` for a
    name that is no such layer, and where a weight has not the pattern.
    """
    from amc.kernels.modules import sparse_module

    result = copy.deepcopy(network)
    _check(result, layers)
    for name, how in layers.items():
        kernel = how.kernel or KERNEL_OF[how.stored_as]
        if kernel == "dense":
            continue
        layer = result.get_submodule(name)
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        # Copied in the default layout: so the kernels pack it.
        layer.weight = nn.Parameter(layer.weight.detach().contiguous(), requires_grad=False)
        relu = take_relu(result, name)
        sparse = sparse_module(layer, how.stored_as, kernel, relu=relu)
        result.set_submodule(name, sparse.eval())
    if isinstance(result, fx.GraphModule):
        result.delete_all_unused_submodules()
        result.recompile()
    return result


def _check(network: nn.Module, layers: Mapping[str, LayerPattern]) -> None:
    possible = sparse_layers(network)
    for name in layers:
        if name not in possible:
            raise InputError(
                f"layer {name!r} cannot run on a sparse kernel{nearest(name, possible) or '.'} "
                f"Those that can: {', '.join(possible)}"
            )


def take_relu(network: nn.Module, name: str) -> bool:
    """Take the ReLU that alone reads a layer's output out of the graph; return whether it was."""
    if not isinstance(network, fx.GraphModule):
        return False
    nodes = [n for n in network.graph.nodes if n.op == "call_module" and n.target == name]
    if len(nodes) != 1 or len(nodes[0].users) != 1:
        return False
    user = next(iter(nodes[0].users))
    if not _is_relu(network, user) or user.args[:1] != (nodes[0],):
        return False
    user.replace_all_uses_with(nodes[0])
    network.graph.erase_node(user)
    return True


def _is_relu(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.ReLU)
    known: dict[str, tuple[object, ...]] = {
        "call_function": RELU_FUNCTIONS,
        "call_method": RELU_METHODS,
    }
    return node.target in known.get(node.op, ())
