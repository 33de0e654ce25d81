"""Grouped convolutions are narrowed by units: channels at one place of all their groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from amc import app, planned
from amc.cli.tables import show_inspection
from amc.compress import Kept, compress, unused
from amc.config import parse_config
from amc.deploy import deployed
from amc.latency.trace import trace_ops
from amc.network_structure import network_structure
from amc.plan_file import read_plan
from amc.units import units_of
from search_spaces.channel import ChannelSpace
from tests.conftest import SMALL
from tests.networks import resnext

TASK = "tests.networks:resnext_task"


def space_of(round_to: int = 1) -> tuple[nn.Module, Tensor, ChannelSpace]:
    network, images = resnext()
    return network, images, ChannelSpace.of(network, (images,), round_to=round_to)


@pytest.mark.parametrize(
    ("channels", "groups"), [(24, (4,)), (24, (4, 6)), (24, (2, 4)), (12, (3, 4))]
)
def test_units_have_as_many_channels_as_the_least_common_multiple(
    channels: int, groups: tuple[int, ...]
) -> None:
    tables = [np.arange(channels).reshape(g, -1) for g in groups]
    expected = np.arange(channels) % (channels // math.lcm(*groups))
    assert units_of(channels, tables).tolist() == expected.tolist()
    assert units_of(channels, tables[::-1]).tolist() == expected.tolist()
    assert units_of(channels, []).tolist() == list(range(channels))


def test_units_follow_channels_that_are_not_in_order() -> None:
    table = np.array([[5, 0, 3], [1, 4, 2]])  # columns: 5 and 1, 0 and 4, 3 and 2
    assert units_of(6, [table]).tolist() == [0, 1, 2, 2, 0, 1]


def test_sites_of_a_resnext_count_units() -> None:
    _, _, space = space_of()
    assert {site.name: (site.channels, site.unit) for site in space.sites} == {
        "stem": (12, 1),
        "reduce": (6, 4),
        "grouped": (4, 4),
        "deep": (6, 4),
        "fours": (2, 12),
        "sixes": (2, 6),
    }
    assert space.excluded == {"head": "its channels are outputs of the network"}
    of = {site.name: site for site in space.sites}
    assert {"stem", "expand", "reduce", "deep"} <= set(of["stem"].layers)
    assert of["reduce"].layers == ("reduce", "grouped")
    assert of["grouped"].producer.c_out == 16
    assert of["grouped"].macs == 16 * 6 * 9 * 36
    assert of["reduce"].consumer is not None
    assert of["reduce"].consumer.c_in == 24


def test_widths_are_rounded_in_channels_and_leave_two_a_group() -> None:
    _, _, space = space_of(round_to=8)
    widths = {site.name: site.widths for site in space.sites}
    assert widths["reduce"] == (2, 4, 6)
    assert widths["grouped"] == (2, 4)
    assert widths["fours"] == widths["sixes"] == (2,)
    _, _, space = space_of(round_to=4)
    widths = {site.name: site.widths for site in space.sites}
    assert widths["grouped"] == (2, 3, 4)
    assert widths["fours"] == (2,)


def test_removed_units_leave_each_group_alike() -> None:
    network, _, space = space_of()
    narrow = compress(network, space.groups, {"reduce": (0, 2, 3, 5), "grouped": (1, 2)})
    dense, ours = network.state_dict(), narrow.state_dict()
    made = [c for c in range(24) if c % 6 in (0, 2, 3, 5)]
    read = [c for c in range(16) if c % 4 in (1, 2)]
    assert torch.equal(ours["reduce.weight"], dense["reduce.weight"][made])
    assert torch.equal(ours["grouped.weight"], dense["grouped.weight"][read][:, [0, 2, 3, 5]])
    assert torch.equal(ours["grouped.bias"], dense["grouped.bias"][read])
    assert torch.equal(ours["expand.weight"], dense["expand.weight"][:, read])
    layer = narrow.get_submodule("grouped")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (16, 8, 4)


def plans_of(space: ChannelSpace) -> list[Kept]:
    """Return what is kept at several widths, down to a single unit, chosen at random."""
    generator = np.random.default_rng(0)
    return [
        {
            s.name: sorted(
                generator.choice(s.channels, max(1, int(k * s.channels)), False).tolist()
            )
            for s in space.sites
        }
        for k in (0.9, 0.7, 0.5, 0.3, 0.0)
    ]


def test_a_narrowed_network_computes_what_the_dense_one_does_without_those_channels() -> None:
    network, images, space = space_of()
    for kept in plans_of(space):
        with torch.no_grad():
            expected = unused(network, space.groups, kept)(images)
            torch.testing.assert_close(compress(network, space.groups, kept)(images), expected)
            assert not torch.allclose(expected, network(images), rtol=1e-2, atol=1e-2)


def test_macs_and_parameters_are_those_counted_by_hand() -> None:
    network, images, space = space_of()
    structure = network_structure(
        lambda widths: compress(network, space.groups, space_kept(space, widths)),
        space.sites,
        (images,),
    )
    stem, reduce, grouped, deep, fours, sixes = widths = (7, 5 * 4, 3 * 4, 4 * 4, 24, 12)
    units = [w // s.unit for w, s in zip(widths, space.sites, strict=True)]
    macs = 36 * (27 * stem + stem * reduce + reduce // 4 * 9 * grouped + grouped * stem)
    macs += 36 * stem * deep + 9 * deep // 4 * 9 * fours + 9 * fours // 6 * sixes + sixes * 5
    params = 27 * stem + 2 * stem + (stem + 1) * reduce + (reduce // 4 * 9 + 1) * grouped
    params += grouped * stem + (stem + 1) * deep + deep // 4 * 9 * fours + 2 * fours
    params += (fours // 6 + 1) * sixes + (sixes + 1) * 5
    built = compress(network, space.groups, space_kept(space, units))
    assert sum(p.numel() for p in built.parameters()) == params
    assert sum(op.macs for op in trace_ops(deployed(built), (images,))) == macs * len(images)
    removed = structure.removed(np.array([units]))
    assert structure.shapes.at(removed)[0].tolist() == [
        n for p in built.parameters() for n in p.shape
    ]
    position = [op.layer for op in structure.ops].index("grouped")
    assert structure.reachable(position) == ((8, 12, 16, 20, 24), (8, 12, 16))


def space_kept(space: ChannelSpace, units: Sequence[int]) -> Kept:
    return {s.name: range(n) for s, n in zip(space.sites, units, strict=True)}


READERS = {
    "many": ((12, 8, 4), (12, 12, 6)),
    "one input": ((12, 24, 12),),
    "one output": ((12, 4, 4),),
    "concatenated": ((15, 12, 3),),
}


class Held(nn.Module):
    """A layer read by grouped convolutions in a way that leaves nothing to remove."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.kind = nn.Conv2d(3, 12, 1), kind
        shapes = READERS[kind]
        self.readers = nn.ModuleList(nn.Conv2d(i, o, 1, groups=g) for i, o, g in shapes)
        self.hidden = nn.Linear(sum(o for _, o, _ in shapes), 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        if self.kind == "concatenated":
            first = torch.cat([first, x], 1)
        read = [reader(first).mean((2, 3)) for reader in self.readers]
        return self.out(torch.relu(self.hidden(torch.cat(read, 1))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("many", "its 12 channels can only go together"),
        ("one input", "layer 'readers.0' has a single input or output a group"),
        ("one output", "layer 'readers.0' has a single input or output a group"),
        ("concatenated", "grouped convolution 'readers.0' has other channels beside them"),
    ],
)
def test_what_cannot_be_narrowed_alike_is_left_alone_and_told(kind: str, reason: str) -> None:
    torch.manual_seed(0)
    space = ChannelSpace.of(Held(kind).eval(), (torch.randn(2, 3, 4, 4),), round_to=1)
    assert "hidden" in {site.name for site in space.sites}
    assert space.excluded["first"] == reason


@pytest.mark.long
@pytest.mark.slow
def test_a_search_from_inspection_to_the_exported_network(tmp_path: Path) -> None:
    config = parse_config(
        {
            **SMALL,
            **{"task": TASK, "agents": {"random_search": {}}, "evaluations": 6},
            **{"recovery": "least_squares+batch_norm", "latency": {"batch_size": 4}},
            **{"finetune_steps": 2, "calibration_images": 60},
        }
    )
    (row,) = app.search(config, tmp_path / "run")["rows"]
    assert row["evaluations"] == 6
    assert row["budget_used"] <= 1
    plan = read_plan(Path(row["plan"]))
    assert min(len(plan.plan.choices[site].kept) / 6 for site in ("reduce", "deep")) < 1
    *_, network, result = planned.accuracy(Path(row["plan"]), TASK, None)
    assert result["reproduced"] is True
    layer = network.get_submodule("grouped")
    assert layer.groups == 4
    assert layer.in_channels == 4 * len(plan.plan.choices["reduce"].kept)
    app.apply(Path(row["plan"]), tmp_path / "small.onnx", task=TASK)
    images = resnext()[1]
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(outputs), network(images), rtol=1e-3, atol=1e-4)
    shown = {site["name"]: site for site in app.inspect(config)["sites"]}
    assert (shown["reduce"]["channels"], shown["reduce"]["unit"]) == (6, 4)
    assert shown["reduce"]["widths"] == [2, 3, 4, 5, 6]


def test_inspection_shows_how_many_channels_a_unit_has(capsys: pytest.CaptureFixture[str]) -> None:
    space = space_of()[2]
    site = {"kind": "conv", "macs": 1000, "layers": ["reduce", "grouped"]}
    sites = [
        {**site, "name": s.name, "channels": s.channels, "unit": s.unit, "widths": list(s.widths)}
        for s in space.sites
    ]
    show_inspection({"task": "resnext", "sites": sites, "dense": {}, "smallest": {}})
    shown = capsys.readouterr().out
    assert "6 x 4" in shown
    assert "2 x 12" in shown
    assert "12 x 1" not in shown
