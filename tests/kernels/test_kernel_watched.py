"""Modes, tracers, transforms and subclasses see the operator, after direct calls too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from amc.errors import InputError
from tests.kernels.oracle import COMPILED
from tests.kernels.sparse_layers import assert_right, input_of, layer_of

pytestmark = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")


class Seen(TorchDispatchMode):
    """Counts the sparse operators that a dispatch mode sees."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "amc"
        return func(*args, **(kwargs or {}))


def operators(graph: fx.Graph) -> int:
    """Return how many calls of the sparse operators ``graph`` has."""
    return sum(str(node.target).startswith("amc.sparse") for node in graph.nodes)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("conv", [False, True])
def test_who_watches_operators_still_sees_them(conv: bool) -> None:
    layer, weight = layer_of(conv)
    x = input_of(conv)
    layer(x)
    layer(x)
    with Seen() as seen:
        assert_right(layer, weight, x)
    assert seen.count == 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(layer(x)) is not Tensor
    assert operators(make_fx(layer)(x).graph) == 1
    assert "amc::sparse" in str(torch.jit.trace(layer, (x,)).graph)
    for strict in (False, True):
        assert operators(torch.export.export(layer, (x,), strict=strict).graph) == 1
    graphs = []

    def backend(graph: fx.GraphModule, _: Any) -> Any:
        graphs.append(graph.graph)
        return graph.forward

    assert torch.equal(torch.compile(layer, backend=backend, fullgraph=True)(x), layer(x))
    assert [operators(graph) for graph in graphs] == [1]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("ways")
def test_transforms_go_through_the_operator() -> None:
    layer, _ = layer_of(conv=False)
    x = input_of(conv=False)
    y = layer(x)
    assert torch.equal(layer(x), y)
    assert torch.equal(torch.func.functionalize(layer)(x), y)
    with pytest.raises(RuntimeError, match="Batching rule not implemented for amc::sparse_linear"):
        torch.vmap(layer)(x[None])
    with pytest.raises(InputError, match="no gradient"):
        torch.func.jvp(layer, (x,), (x,))
    with pytest.raises(InputError, match="no gradient"):
        torch.func.grad(lambda given: layer(given).sum())(x)


@pytest.mark.usefixtures("ways")
def test_subclasses_of_tensors_go_through_the_operator() -> None:
    class Own(Tensor):
        pass

    layer, _ = layer_of(conv=False)
    x = input_of(conv=False)
    y = layer(x)
    for given in (x.as_subclass(Own), nn.Parameter(x, requires_grad=False)):
        with Seen() as seen:
            result = layer(given)
        assert seen.count == 1
        assert torch.equal(result.as_subclass(Tensor), y)
    assert type(layer(x.as_subclass(Own))) is Own
