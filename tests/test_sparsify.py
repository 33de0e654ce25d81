"""Layers of a deployed network on sparse kernels: the numbers of a pruned dense network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.deploy import deployed
from amc.errors import InputError
from amc.kernels.patterns import keep_largest
from amc.latency.trace import trace_ops
from amc.sparsify import LayerPattern, sparse_layers, sparsified


class Net(nn.Module):
    """A residual, a depthwise convolution, ReLU as function, module and method."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.c, self.depthwise = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
        self.same = nn.Conv2d(6, 6, 3, padding="same")
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.a(x)))
        x = self.act(self.b(x)) + x
        x = self.same(self.depthwise(self.c(x).relu()))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


X = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
CHOICES = {
    "a": LayerPattern("2:4"),
    "b": LayerPattern("csr", 0.7),
    "c": LayerPattern("4x1", 0.5),
    "head": LayerPattern("1:4"),
}


def folded() -> nn.Module:
    torch.manual_seed(0)
    return deployed(Net(), (X,))


def test_only_plain_convolutions_and_linear_layers_can_be_sparse() -> None:
    assert sparse_layers(folded()) == ["a", "b", "c", "head"]


def test_outputs_are_those_of_the_pruned_dense_network() -> None:
    dense = folded()
    before = copy.deepcopy(dense.state_dict())
    sparse, pruned = sparsified(dense, CHOICES), copy.deepcopy(dense)
    for name, how in CHOICES.items():
        weight = pruned.get_parameter(f"{name}.weight").data
        weight.copy_(keep_largest(weight.contiguous(), how.pattern, how.sparsity))
    x = X.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(sparse(x), pruned(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


def test_a_relu_that_alone_reads_a_sparse_layer_becomes_part_of_it() -> None:
    ops = trace_ops(sparsified(folded(), CHOICES), (X,))
    names = [op.template.op.split(".")[1] for op in ops]
    assert names == ["sparse_conv2d", "sparse_conv2d", "add", "sparse_conv2d", "conv2d", "conv2d",
                     "mean", "sparse_linear"]  # fmt: skip
    fused = [op.template.args[-1] for op in ops if op.template.kernel != "dense"]
    assert fused == [True, True, True, False]


def test_a_relu_is_left_alone_where_something_else_reads_the_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return F.relu(y) + y  # type: ignore[no-any-return]

    dense = deployed(Twice(), (X,))
    sparse = sparsified(dense, {"a": LayerPattern("csr", 0.0)})
    with torch.inference_mode():
        torch.testing.assert_close(sparse(X), dense(X), rtol=1e-4, atol=1e-5)
    assert [op.template.op.split(".")[1] for op in trace_ops(sparse, (X,))][1] == "relu"


def test_wrong_names_and_patterns_are_refused() -> None:
    with pytest.raises(InputError, match="layer 'depthwise' cannot run on a sparse kernel"):
        sparsified(folded(), {"depthwise": LayerPattern("2:4")})
    with pytest.raises(InputError, match=r"layer 'haed' .*did you mean 'head'"):
        sparsified(folded(), {"haed": LayerPattern("2:4")})
    with pytest.raises(InputError, match="pattern '3:4' is unknown"):
        LayerPattern("3:4")
    with pytest.raises(InputError, match="sparsity"):
        sparsified(folded(), {"a": LayerPattern("csr")})
