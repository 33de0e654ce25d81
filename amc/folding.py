"""BatchNorm folded into the layer before it, for scoring: the same outputs, fewer operations.

Which layers fold is found once a network, by tracing it; folding a compressed version of it is then
arithmetic on weights (about a millisecond). Outputs agree to float32 rounding, so that a score by
images can differ by those whose two largest outputs are equal but for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from amc.deploy import check_same, producer_to_fold

Folds = Sequence[tuple[str, str]]


def folds_of(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> Folds:
    """Return the names of each layer and the BatchNorm that folds into it.

    None where ``torch.fx`` cannot trace the network in evaluation mode, or the folded network's
    outputs for ``example_inputs`` are not the original's.
    """
    plain = copy.deepcopy(network).eval()
    try:
        graph = fx.symbolic_trace(plain).graph
        modules = dict(plain.named_modules())
        calls = [node.target for node in graph.nodes if node.op == "call_module"]
        pairs = [(producer_to_fold(node, modules, calls), node) for node in graph.nodes]
        found = [
            (str(before.target), str(node.target))
            for before, node in pairs
            if before is not None and calls.count(node.target) == 1
        ]
        check_same(plain, folded(plain, found), example_inputs)
    except Exception:  # torch.fx raises what the traced code raises: any type at all
        return ()
    return found


@torch.no_grad()
def folded(network: nn.Module, folds: Folds) -> nn.Module:
    """Return a copy of ``network``, in evaluation mode, with BatchNorm folded away."""
    modules = dict(network.named_modules())
    own = [t for pair in folds for name in pair for t in modules[name].parameters(False)]
    result = copy.deepcopy(network, {id(t): t for t in own}).eval()
    layers: dict[str, Any] = dict(result.named_modules())
    for name, norm_name in folds:
        layer, norm = layers[name], layers[norm_name]
        fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        layer.weight, layer.bias = fuse(layer.weight, layer.bias, *statistics)
        parent, _, last = norm_name.rpartition(".")
        setattr(result.get_submodule(parent), last, nn.Identity())
    return result
