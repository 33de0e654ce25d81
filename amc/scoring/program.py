"""How a network and all its compressed versions are run fast: found once, bound to each of them.

The network is traced (``torch.fx``). Convolutions, each with the BatchNorm, the sum and the ReLU
that follow it, become one layer (``amc.scoring.layers``); all else runs as the network wrote it.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from amc.deploy import check_same, producer_to_fold
from amc.scoring.layers import Fused, fused

SUMS = (operator.add, operator.iadd, torch.add)
RELUS = (F.relu, torch.relu, torch.relu_)
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Chain:
    """The nodes that become one layer: a convolution and what follows it."""

    conv: fx.Node
    norm: fx.Node | None
    add: fx.Node | None
    other: fx.Node | None
    relu: fx.Node | None

    @property
    def last(self) -> fx.Node:
        """The node whose value the layer returns."""
        return self.relu or self.add or self.norm or self.conv


@dataclass(frozen=True)
class Slot:
    """What the traced code calls ``name``: a layer of the network, or several run as one.

    ``norm`` is the name of the BatchNorm; without ``is_fused`` ``target`` is taken as it is.
    """

    name: str
    target: str
    norm: str | None = None
    relu: bool = False
    is_fused: bool = False


class Program:
    """The traced forward pass of one architecture, whatever its widths."""

    def __init__(self, forward: Forward, slots: tuple[Slot, ...]) -> None:
        self._forward, self._slots = forward, slots

    @staticmethod
    def of(
        network: nn.Module, narrower: nn.Module, example_inputs: tuple[Tensor, ...]
    ) -> Program | None:
        """Return the program of ``network`` and of all versions of it that are compressed.

        ``None`` where ``torch.fx`` cannot trace it in evaluation mode, where the code that it
        traces depends on widths (``narrower``, a compressed version, has another), and where the
        program's outputs for ``example_inputs`` are not the network's.
        """
        plain = copy.deepcopy(network).eval()
        try:
            graph = fx.Tracer().trace(plain)
            if _text(graph) != _text(fx.Tracer().trace(copy.deepcopy(narrower).eval())):
                return None
            forward, slots = _compile(graph, dict(plain.named_modules()))
            program = Program(forward, slots)
            check_same(plain, _Called(program.bind(plain, fold=True)), example_inputs)
        except Exception:  # torch.fx raises what the traced code raises: any type at all
            return None
        return program

    def bind(self, network: nn.Module, fold: bool) -> Forward:
        """Return the forward pass of one compressed version, with its weights of this moment.

        ``network`` must be in evaluation mode. ``fold`` allows BatchNorm to be folded into weights;
        compiled layers apply it to their sums in any case. To be called without gradients.
        """
        modules = dict(network.named_modules())
        return partial(
            self._forward,
            SimpleNamespace(**{s.name: _bound(s, modules, fold) for s in self._slots}),
        )


class _Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self._function(*inputs)


def _text(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """Return what a graph does, to be compared: operations, targets and arguments."""
    return [
        (node.op, str(node.target), str(node.args), str(node.kwargs), node.name)
        for node in graph.nodes
    ]


def _bound(slot: Slot, modules: Mapping[str, nn.Module], fold: bool) -> Any:
    """Return what stands in a slot, for the network of these modules."""
    if slot.is_fused:
        norm: Any = None if slot.norm is None else modules[slot.norm]
        conv: Any = modules[slot.target]
        made: Fused = fused(conv, norm, slot.relu, fold)
        return made
    parent, _, last = slot.target.rpartition(".")
    return modules[slot.target] if slot.target in modules else getattr(modules[parent], last)


def _compile(graph: fx.Graph, modules: dict[str, nn.Module]) -> tuple[Forward, tuple[Slot, ...]]:
    """Return the code of the fused graph and its slots; changes the graph."""
    slots: list[Slot] = []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        if node.op == "call_module" and _is_fusable(node, modules, calls):
            chain = _chain(node, modules, calls)
            norm = None if chain.norm is None else str(chain.norm.target)
            name = f"layer{len(slots)}"
            slots.append(Slot(name, str(node.target), norm, chain.relu is not None, is_fused=True))
            _replace(graph, chain, name)
    for node in graph.nodes:
        is_layer = node.op == "call_module" and str(node.target) in {s.name for s in slots}
        if node.op in {"call_module", "get_attr"} and not is_layer:
            slots.append(Slot(f"own{len(slots)}", str(node.target)))
            node.target = slots[-1].name
    holder = nn.Module()
    for slot in slots:
        setattr(holder, slot.name, nn.Identity())
    return type(fx.GraphModule(holder, graph)).forward, tuple(slots)


def _is_fusable(node: fx.Node, modules: Mapping[str, nn.Module], calls: Counter[Any]) -> bool:
    conv = modules[str(node.target)]
    return (
        type(conv) is nn.Conv2d
        and calls[node.target] == 1
        and len(node.args) == 1
        and not node.kwargs
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not _is_hooked(conv)
    )


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _chain(conv: fx.Node, modules: dict[str, nn.Module], calls: Counter[Any]) -> Chain:
    """Return the longest chain from a convolution on, each node the only user of the one before."""
    norm = add = other = relu = None
    last = conv
    after = _only_user(last)
    if (
        after is not None
        and producer_to_fold(after, modules, list(calls.elements())) is last
        and calls[after.target] == 1
        and type(modules[str(after.target)]) is nn.BatchNorm2d
        and not _is_hooked(modules[str(after.target)])
    ):
        norm = last = after
        after = _only_user(last)
    if after is not None and after.op == "call_function" and after.target in SUMS:
        operands = [a for a in after.args if isinstance(a, fx.Node) and a is not last]
        in_place = after.target is operator.iadd and after.args[0] is not last
        if len(operands) == 1 and len(after.args) == 2 and not after.kwargs and not in_place:
            add, other, last = after, operands[0], after
            after = _only_user(last)
    if after is not None and _is_relu(after, modules):
        relu = after
    return Chain(conv, norm, add, other, relu)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return type(module) is nn.ReLU and not _is_hooked(module)
    method = node.op == "call_method" and node.target in {"relu", "relu_"}
    return method or (node.op == "call_function" and node.target in RELUS)


def _replace(graph: fx.Graph, chain: Chain, name: str) -> None:
    """Put one call in the place of the chain's last node, and remove the chain."""
    given = (chain.conv.args[0], *([] if chain.other is None else [chain.other]))
    with graph.inserting_after(chain.last):
        call = graph.create_node("call_module", name, given)
    chain.last.replace_all_uses_with(call)
    for node in (chain.relu, chain.add, chain.norm, chain.conv):
        if node is not None:
            graph.erase_node(node)
