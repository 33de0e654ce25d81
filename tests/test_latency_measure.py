"""Measuring: everything asked for is in the table, once, and generators stay as they were."""

import numpy as np
import pytest
import torch
from torch import nn

from amc.deploy import deployed
from amc.latency import LatencyTable, sampling
from amc.latency.clock import Timing, settled
from amc.latency.measure import KernelRequest, Networks, measure_table
from amc.latency.session import Point, Session, WholeNetwork
from amc.latency.trace import trace_ops

NETWORK = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
INPUTS = (torch.rand(2, 2, 6, 6).to(memory_format=torch.channels_last),)


def requests(smallest: int = 4) -> list[KernelRequest]:
    reachable = [((2,), (smallest, 8)), ((smallest, 8),), ((smallest, 8), (4,))]
    ops = trace_ops(deployed(NETWORK), INPUTS)
    return [
        KernelRequest(op.template, widths, (i,))
        for i, (op, widths) in enumerate(zip(ops, reachable, strict=True))
    ]


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    dense = WholeNetwork("net/batch2", deployed(NETWORK), INPUTS)
    return measure_table(requests(), 1, networks=Networks([dense]))


def test_every_request_is_measured(table: LatencyTable) -> None:
    for op in trace_ops(deployed(NETWORK), INPUTS):
        assert table.latency(op) > 0
    assert table.networks["net/batch2"].latency_s > 0
    assert table.reference_s > 0
    assert set(table.call_overhead_s) == {"layer", "function"}
    assert all(times.repeats >= 6 for times in table.kernels.values())
    assert LatencyTable.from_json(table.as_json()).as_json() == table.as_json()


def test_a_complete_table_is_returned_as_it_is(table: LatencyTable) -> None:
    assert measure_table(requests(), 1, table) is table


def test_a_table_grows_by_what_it_lacks(table: LatencyTable) -> None:
    wider = requests(smallest=2)
    grown = measure_table(wider, 1, table)
    for request in wider:
        assert [len(marks) for marks in grown.kernels[request.template.key].grid] == [
            len({*new, *old})
            for new, old in zip(
                request.reachable, table.kernels[request.template.key].grid, strict=True
            )
        ]
    assert grown.reference_s == table.reference_s
    assert grown.networks == table.networks


def test_measuring_leaves_global_state_alone(table: LatencyTable) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    measure_table(requests(smallest=1)[:1], 2, table)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_inference_mode_enabled() is False


def test_progress_ends_at_its_total(table: LatencyTable) -> None:
    seen: list[tuple[int, int, str]] = []
    measure_table(requests(smallest=3), 1, table, progress=lambda *step: seen.append(step))
    assert seen
    assert all(0 < done <= total for done, total, _ in seen)


def test_large_kernels_get_a_grid_from_their_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "FULL_GRID", 4)
    monkeypatch.setattr(sampling, "MOST_POINTS", 6)
    op = trace_ops(deployed(NETWORK), INPUTS)[2]
    widths = tuple(range(1, 9))
    table = measure_table([KernelRequest(op.template, (widths, widths))], 1)
    grid = table.kernels[op.kernel].grid
    assert all(marks[0] == 1 and marks[-1] == 8 for marks in grid)
    assert np.prod([len(marks) for marks in grid]) <= 6


def test_turns_hold_every_point_and_look_like_the_network() -> None:
    ops = trace_ops(deployed(NETWORK), INPUTS)
    session = Session([op.template.name for op in ops], 1, lambda *_: None)
    points: list[Point] = [(ops[0].template, (2, width)) for width in range(1, 8)]
    points += [(ops[1].template, (4,)), (ops[2].template, (8, 4))]
    turns = session._turns(points)
    assert {point for turn in turns for point in turn} == set(points)
    for turn in turns:
        assert [template.op for template, _ in turn] == [op.template.op for op in ops]


def test_interrupted_timings_do_not_count() -> None:
    calm = [Timing(1.0 + i / 100, 1.0, calm=True) for i in range(10)]
    crowded = [Timing(3.0, 1.5, calm=False)] * 10
    assert settled(calm + crowded, threads=1).median == pytest.approx(1.045)
    assert settled(calm + crowded, threads=1).clock == "wall"
    alone = settled(calm[:3] + crowded, threads=1)
    assert (alone.clock, alone.median) == ("cpu", 1.5)
    assert settled(crowded, threads=2).median == 3.0


def test_the_interval_of_a_median_shrinks_with_more_timings() -> None:
    seconds = np.random.default_rng(0).normal(1.0, 0.1, 400)
    few, many = (
        settled([Timing(s, s, calm=True) for s in seconds[:n]], 1).interval for n in (10, 400)
    )
    assert many < few
    assert many < 0.02
    assert settled([Timing(1, 1, calm=True)] * 5, 1).interval == float("inf")
