"""Costs at any widths equal those of the network that is really built."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.compress import compress
from amc.coupling import trace_coupling
from amc.deploy import deployed
from amc.errors import InputError
from amc.latency import KernelTimes, LatencyTable
from amc.latency.calls import DENSE_AFTER_SPARSE
from amc.latency.sampling import DENSITIES
from amc.latency.trace import trace_ops
from amc.network_cost import NetworkCostModel
from amc.network_structure import NetworkStructure, network_structure
from amc.sites import Site
from amc.zoo.networks import ARCHITECTURES
from tests.networks import ResNeXt


class Joined(nn.Module):
    """Two inputs, concatenation, a residual, a depthwise convolution, flatten to linear."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 4, 3)
        self.mix, self.again = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise, self.bn = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.linear, self.head = nn.Linear(8 * 4 * 4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.mix(torch.cat([self.left(x), self.right(y)], 1))
        z = torch.relu(z + self.again(z))
        z = self.bn(self.depthwise(z))
        return self.head(torch.relu(self.linear(z.flatten(1))))  # type: ignore[no-any-return]


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], int]] = {
    "joined": (Joined, (torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)), 2),
    "resnext": (ResNeXt, (torch.rand(2, 3, 6, 6),), 2),
    "resnet8": (ARCHITECTURES["resnet8"], (torch.rand(2, 1, 28, 28),), 4),
    "mobilenet": (ARCHITECTURES["mobilenet"], (torch.rand(2, 1, 28, 28),), 16),
}

Build = Callable[[Sequence[int]], nn.Module]


def made(name: str) -> tuple[tuple[Site, ...], Build, tuple[Tensor, ...]]:
    factory, inputs, step = CASES[name]
    torch.manual_seed(0)
    network = factory().eval()
    groups, _ = trace_coupling(network, inputs)
    sites = tuple(
        Site(
            g.name, g.shape.kind, g.channels, g.shape.c_in, g.shape.kernel_size, g.shape.stride,
            g.shape.height, g.shape.width, g.macs,
            tuple(sorted({*range(step, g.channels, step), g.channels})), g.layers,
        )
        for g in groups
    )  # fmt: skip

    def build(widths: Sequence[int]) -> nn.Module:
        kept = {site.name: range(width) for site, width in zip(sites, widths, strict=True)}
        return compress(network, groups, kept)

    return sites, build, inputs


def invented(structure: NetworkStructure) -> LatencyTable:
    """Return a table in which every kernel takes 1 + sum(widths) + product(widths) microseconds.

    Sparse ones take 3 microseconds more, and 0.8 of a product for each weight that is stored.
    """
    kernels = {}
    for request in structure.kernel_requests():
        lattice = np.meshgrid(*request.reachable, indexing="ij")
        seconds = 1e-6 * (1 + sum(lattice) + np.prod(lattice, axis=0))
        spread = np.zeros(seconds.shape)
        kernels[request.template.key] = KernelTimes(
            request.template.axes, request.reachable, seconds, spread, 9
        )
    axes: dict[str, list[set[int]]] = {}
    for its in structure.patterned:
        for template in its.kernels.values():
            own = axes.setdefault(template.key, [set() for _ in template.axes])
            for marks, more in zip(own, (*structure.reachable(its.op), DENSITIES), strict=False):
                marks.update(more)
            names = template.axes
            grid = tuple(tuple(sorted(marks)) for marks in own)
            lattice = np.meshgrid(*grid, indexing="ij")
            density = lattice[2] / 1000 if len(lattice) == 3 else 0.5
            seconds = 1e-6 * (4 + sum(lattice[:2]) + 0.8 * lattice[0] * lattice[1] * density)
            times = KernelTimes(names, grid, seconds, np.zeros(seconds.shape), 9)
            kernels[template.key] = times
    overhead = {DENSE_AFTER_SPARSE: 2e-6}
    return LatencyTable({}, 1, "", {}, "", 1.0, overhead, kernels, {})


@pytest.mark.parametrize("name", list(CASES))
def test_costs_are_those_of_the_network_that_is_built(name: str) -> None:
    sites, build, inputs = made(name)
    structure = network_structure(build, sites, inputs)
    model = NetworkCostModel(structure, invented(structure))
    rng = np.random.default_rng(0)
    plans = [[int(rng.choice(site.widths)) for site in sites] for _ in range(4)]
    plans.append(list(structure.dense_widths))
    costs = model.costs(np.array(plans))
    for i, widths in enumerate(plans):
        network = build(widths)
        ops = trace_ops(deployed(network, inputs), inputs)
        params = sum(p.numel() for p in network.parameters())
        assert costs["params"][i] == params
        assert costs["weight_bytes"][i] == 4 * params
        assert costs["macs"][i] == sum(op.macs for op in ops) / 2
        expected = sum(1e-6 * (1 + sum(op.dims) + np.prod(op.dims)) for op in ops)
        assert costs["latency_s"][i] == pytest.approx(expected, rel=1e-9)
        lines = model.breakdown(widths)
        assert [(line.kernel, line.dims, line.macs) for line in lines] == [
            (op.kernel, op.dims, op.macs) for op in ops
        ]
        assert sum(line.latency_s for line in lines) == pytest.approx(expected)
        assert sum(model.layer_latencies(widths).values()) == pytest.approx(expected)


def test_requests_name_every_reachable_width() -> None:
    sites, build, inputs = made("joined")
    structure = network_structure(build, sites, inputs)
    reachable = {r.template.key.split("(")[0]: r.reachable for r in structure.kernel_requests()}
    assert reachable["dense:cat"] == ((4, 6, 8, 10, 12),)
    by_layer = {op.layer: op.kernel for op in structure.ops}
    flat = next(r for r in structure.kernel_requests() if r.template.key == by_layer["head"])
    positions = [structure.ops[p].layer for p in flat.positions]
    assert positions == ["linear", "head"]
    assert {32, 64, 96, 128} <= set(flat.reachable[0])


def test_a_width_that_is_not_legal_is_refused() -> None:
    sites, build, inputs = made("resnet8")
    structure = network_structure(build, sites, inputs)
    model = NetworkCostModel(structure, invented(structure))
    for wrong in (7, 0, -4, 20):
        with pytest.raises(InputError, match=f"width {wrong} of site 'conv1' is not legal"):
            model.costs(np.array([[wrong, *structure.dense_widths[1:]]]))


def test_a_table_that_lacks_a_kernel_is_refused_at_once() -> None:
    sites, build, inputs = made("resnet8")
    structure = network_structure(build, sites, inputs)
    table = LatencyTable({}, 1, "", {}, "", 1.0, {}, {}, {})
    with pytest.raises(InputError, match="never measured"):
        NetworkCostModel(structure, table)


def test_widths_that_are_not_followed_linearly_are_refused() -> None:
    def build(widths: Sequence[int]) -> nn.Module:
        hidden = {8: 8, 4: 6, 2: 3}[widths[0]]
        return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    site = Site("0", "linear", 8, 4, 1, 1, 1, 1, 32, (2, 4, 8), ("0",))
    with pytest.raises(InputError, match="do not follow the sites linearly"):
        network_structure(build, [site], (torch.rand(2, 4),))


def test_a_site_that_changes_which_operations_run_is_refused() -> None:
    def build(widths: Sequence[int]) -> nn.Module:
        extra = [nn.ReLU()] if widths[0] < 8 else []
        return nn.Sequential(nn.Linear(4, widths[0]), *extra)

    site = Site("0", "linear", 8, 4, 1, 1, 1, 1, 32, (2, 4, 8), ("0",))
    with pytest.raises(InputError, match=r"narrowing site '0'.*sites\.exclude"):
        network_structure(build, [site], (torch.rand(2, 4),))
