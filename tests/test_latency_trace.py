"""What a network really runs: deployed, recorded, and run again by the kernels."""

import copy

import pytest
import torch
from torch import Tensor, nn

from amc.deploy import deployed, why_unfolded
from amc.kernels.dense import Dense
from amc.latency.trace import tensors_in, trace_ops
from amc.zoo.networks import ARCHITECTURES


class Mixed(nn.Module):
    """Two inputs, concatenation, a grouped and a depthwise convolution, in place, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 8, 3)
        self.right = nn.Conv2d(3, 4, 3)
        self.grouped = nn.Conv2d(12, 6, 1, groups=2)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.bn = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.cat([self.left(x), self.right(y)], 1)
        z = nn.functional.relu_(self.depthwise(self.grouped(z)))
        return self.linear(self.bn(z).flatten(1))  # type: ignore[no-any-return]


MIXED_INPUTS = (torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8))


def randomised(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_deployed_network_is_folded_equal_and_independent(name: str) -> None:
    network = randomised(ARCHITECTURES[name]())
    before = copy.deepcopy(network.state_dict())
    x = torch.rand(4, 1, 28, 28)
    result = deployed(network, (x,))
    assert why_unfolded(result) is None
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())
    with torch.no_grad():
        torch.testing.assert_close(result(x), network(x), rtol=1e-4, atol=1e-4)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    own = {p.data_ptr() for p in network.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in result.parameters())


def test_a_network_that_cannot_be_traced_is_left_unfolded() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            return y if y.sum() > 0 else -y  # type: ignore[no-any-return]

    network, x = Branching().train(), torch.rand(2, 1, 4, 4)
    result = deployed(network, (x,))
    assert "control flow" in str(why_unfolded(result))
    assert network.training
    assert not result.training
    assert "batch_norm" in [op.template.op.split(".")[1] for op in trace_ops(result, (x,))]


def test_a_batch_norm_whose_input_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.bn(y)  # type: ignore[no-any-return]

    network, x = randomised(Twice()), torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(deployed(network, (x,))(x), network(x))


def test_every_operation_is_recorded_with_widths_apart_and_views_left_out() -> None:
    ops = trace_ops(deployed(Mixed(), MIXED_INPUTS), MIXED_INPUTS)
    seen = [(op.layer, op.template.op.split(".")[1], op.template.axes, op.dims) for op in ops]
    assert seen == [
        ("left", "conv2d", ("c_in", "c_out"), (1, 8)),
        ("right", "conv2d", ("c_in", "c_out"), (3, 4)),
        ("right", "cat", ("c",), (12,)),
        ("grouped", "conv2d", ("c_in", "c_out"), (12, 6)),
        ("depthwise", "conv2d", ("c",), (6,)),
        ("depthwise", "relu_", ("c",), (6,)),
        ("bn", "batch_norm", ("c",), (6,)),
        ("bn", "flatten", ("c",), (6,)),
        ("linear", "linear", ("in", "out"), (96, 5)),
    ]
    flattened = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    plain = trace_ops(deployed(flattened), (torch.rand(2, 4, 1, 1),))
    assert [op.template.op for op in plain] == ["aten.linear.default"]


def test_macs_are_those_of_the_batch() -> None:
    macs = {op.layer: op.macs for op in trace_ops(Mixed().eval(), MIXED_INPUTS) if op.macs}
    assert macs == {
        "left": 2 * 36 * 8 * 9,
        "right": 2 * 36 * 4 * 27,
        "grouped": 2 * 36 * 6 * 6,
        "depthwise": 2 * 16 * 6 * 9,
        "linear": 2 * 96 * 5,
    }


def test_equal_layers_of_other_widths_share_a_key() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1))
    first, second = trace_ops(deployed(network), (torch.rand(2, 4, 8, 8),))
    assert first.kernel == second.kernel or "channels_last" in second.kernel
    assert trace_ops(network, (torch.rand(3, 4, 8, 8),))[0].kernel != first.kernel


def test_the_dense_kernel_runs_what_was_recorded_at_any_width() -> None:
    for op in trace_ops(deployed(Mixed(), MIXED_INPUTS), MIXED_INPUTS):
        for dims in (op.dims, tuple(2 * width for width in op.dims)):
            call, activations = Dense.prepare(op.template, dims)
            with torch.inference_mode():
                outputs = tensors_in(call())
            assert outputs[0].numel() > 0
            assert len(activations) >= 1


def test_recorded_layouts_are_rebuilt() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU())
    relu = trace_ops(deployed(network), (torch.rand(2, 4, 8, 8),))[1]
    _, (activation,) = Dense.prepare(relu.template, (12,))
    assert activation.shape == (2, 12, 6, 6)
    assert activation.is_contiguous(memory_format=torch.channels_last)
