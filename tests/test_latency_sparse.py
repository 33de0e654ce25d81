"""Sparse operations: recorded, asked for, and timed like dense ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amc.deploy import deployed
from amc.errors import InputError
from amc.kernels import core
from amc.latency import LatencyTable, OpCall, sampling
from amc.latency import measure as measuring
from amc.latency.checkpoint import Turn
from amc.latency.clock import Timing
from amc.latency.grid import monotone
from amc.latency.measure import Networks, measure_table
from amc.latency.sampling import DENSITIES, KernelRequest
from amc.latency.session import Point, Session, WholeNetwork, prepare
from amc.latency.trace import network_latency, tensors_in, trace_ops
from amc.network_structure import network_structure, sparse_requests
from amc.sites import Site
from amc.sparsify import LayerPattern, sparsified

INPUTS = (torch.rand(2, 6, 6, 6).to(memory_format=torch.channels_last),)
PATTERNS = {"0": LayerPattern("2:4"), "1": LayerPattern("csr", 0.5), "3": LayerPattern("4x1", 0.75)}


def network(width: int = 8, out: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(6, width, 3), nn.Conv2d(width, out, 1), nn.Flatten(), nn.Linear(out * 16, 5)
    )


def sparse_ops(width: int = 8) -> list[OpCall]:
    return [
        op
        for op in trace_ops(sparsified(deployed(network(width)), PATTERNS), INPUTS)
        if op.template.kernel != "dense"
    ]


def test_sparse_operations_are_recorded_with_widths_and_density() -> None:
    ops = sparse_ops()
    seen = [(op.layer, op.template.kernel, op.template.axes, op.dims, op.macs) for op in ops]
    # Of 6 input channels 2:4 stores 4: two groups. 4x1 stores blocks of 5 outputs padded to 8.
    blocks = round(0.25 * 2 * 96)
    assert seen == [
        ("0", "nm", ("c_in", "c_out"), (6, 8), 2 * 16 * 8 * 9 * 4),
        ("1", "csr", ("c_in", "c_out", "density"), (8, 6, 500), 2 * 16 * 24),
        ("3", "block", ("in", "out", "density"), (96, 5, 250), round(2 * blocks * 4)),
    ]
    assert "[c_out,c_in,3,3]" in ops[0].kernel
    assert ops[0].kernel.startswith("nm:amc.sparse_conv2d(float32[2,c_in,6,6] channels_last")
    assert ops[0].template.call_kind == "sparse"


def test_other_widths_share_a_key() -> None:
    assert [op.kernel for op in sparse_ops(12)][:2] == [op.kernel for op in sparse_ops(8)][:2]


def test_what_was_recorded_runs_at_other_widths_and_densities() -> None:
    for op in sparse_ops():
        dims = tuple(2 * width if width < 100 else width for width in op.dims)
        call, activations = prepare(op.template, dims)
        with torch.inference_mode():
            (output,) = tensors_in(call())
        assert output.shape[-1 if output.dim() == 2 else 1] == dims[1]
        assert len(activations) == 1


def test_requests_name_the_kernels_that_the_network_runs() -> None:
    site = Site("0", "conv", 8, 6, 3, 1, 4, 4, 1, (4, 8), ("0",))
    structure = network_structure(lambda widths: network(widths[0]), [site], INPUTS)
    requests = sparse_requests(structure, network(), INPUTS, ["2:4", "csr", "4x1"])
    assert len(requests) == 9
    by_key = {r.template.key: r for r in requests}
    for op in sparse_ops(4):
        reachable = by_key[op.kernel].reachable
        assert all(w in its for w, its in zip(op.dims[:2], reachable[:2], strict=True))
        assert reachable[2:] == ((DENSITIES,) if "density" in op.template.axes else ())
        assert structure.ops[by_key[op.kernel].positions[0]].layer == op.layer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PASSES", 1)
    monkeypatch.setattr(measuring, "REPEATS", 3)
    monkeypatch.setattr(measuring, "ROUNDS", 1)
    monkeypatch.setattr(measuring, "DENSE_REPEATS", 4)
    monkeypatch.setattr("amc.latency.overhead.CHAIN_REPEATS", 2)


def requests() -> list[KernelRequest]:
    ops = trace_ops(sparsified(deployed(network()), PATTERNS), INPUTS)
    reachable = {
        0: ((6,), (4, 8)), 1: ((4, 8), (6,), (100, 500, 1000)), 3: ((96,), (5,), (250, 500)),
    }  # fmt: skip
    found, sparse = [], iter(reachable.values())
    for position, op in enumerate(ops):
        if op.template.kernel == "dense":
            found.append(KernelRequest(op.template, tuple((w,) for w in op.dims), (position,)))
        else:
            found.append(KernelRequest(op.template, next(sparse), (position,)))
    return found


@pytest.mark.usefixtures("quick")
def test_sparse_kernels_are_measured_and_sum_to_a_network() -> None:
    table = measure_table(requests(), 1)
    assert table.backends["csr"] == core.backend()
    assert table.backend.endswith(f"sparse {core.backend()}")
    assert set(table.call_overhead_s) == {"layer", "function", "sparse"}
    sparse = sparsified(deployed(network()), PATTERNS)
    ops = trace_ops(sparse, INPUTS)
    assert sum(op.template.kernel != "dense" for op in ops) == len(PATTERNS)
    assert all(table.latency(op) > 0 for op in ops)
    predicted = network_latency(sparse, INPUTS, table)
    assert predicted > max(table.latency(op) for op in ops)
    for key, times in table.kernels.items():
        assert times.is_monotone == (not key.startswith("dense:"))
        assert times.caches["warm_s"] > 0
        assert times.caches["cold_s"] > 0
    assert LatencyTable.from_json(table.as_json()).as_json() == table.as_json()


@pytest.mark.usefixtures("quick")
def test_kernels_of_another_backend_are_measured_anew() -> None:
    table = measure_table(requests(), 1)
    assert measure_table(requests(), 1, table) is table
    foreign = LatencyTable.from_json({**table.as_json(), "backends": {**table.backends, "nm": "x"}})
    again = measure_table(requests(), 1, foreign)
    assert again.backends == table.backends
    same = {
        k for k, t in again.kernels.items() if np.array_equal(t.seconds, foreign.kernels[k].seconds)
    }
    assert {k.partition(":")[0] for k in again.kernels.keys() - same} == {"nm"}


def live_turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of points of each turn that is really timed."""
    timed = Session._timed_turn
    turns: list[int] = []

    def counted(self: Session, points: Sequence[Point], repeats: int, networks: Any) -> Turn:
        if self.sequence:  # the overhead of calls has sittings of its own
            turns.append(len(points))
        return timed(self, points, repeats, networks)

    monkeypatch.setattr(Session, "_timed_turn", counted)
    return turns


@pytest.mark.usefixtures("quick")
def test_an_interrupted_measuring_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json.partial"
    dense = Networks([WholeNetwork("n", deployed(network()), INPUTS)])

    def interrupted(done: int, total: int, what: str) -> None:
        if what == "timing kernels" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(requests(), 1, None, dense, progress=interrupted, checkpoint=path)
    kept = path.read_text().splitlines()
    path.write_text("\n".join([*kept, kept[-1][:40]]))  # killed while it wrote a line
    turns = live_turns(monkeypatch)
    first = measure_table(requests(), 1, None, dense, checkpoint=path)
    again = len(turns)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1 + (len(kept) - 1) + again
    assert [line["reference_s"] for line in lines[1 : len(kept)]] == [
        json.loads(line)["reference_s"] for line in kept[1:]
    ]
    whole = measure_table(requests(), 1, None, dense, checkpoint=path)
    assert len(turns) == again
    assert whole.reference_s == first.reference_s
    measure_table(requests()[:2], 1, None, dense, checkpoint=path)  # another sitting's file
    assert len(turns) > again


@pytest.mark.usefixtures("quick")
def test_a_noisy_table_is_refused_and_then_timed_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)

    def shaky(call: object) -> Timing:
        seconds = float(random.uniform(1e-3, 1e-1))
        return Timing(seconds, seconds, calm=True)

    monkeypatch.setattr("amc.latency.session.timed", shaky)
    path = tmp_path / "t.json.partial"
    turns = live_turns(monkeypatch)
    with pytest.raises(InputError, match=r"stayed noisy after 1 rounds.*--allow-noisy"):
        measure_table(requests(), 1, checkpoint=path, allow_noisy=False)
    first = len(turns)
    with pytest.raises(InputError, match="stayed noisy"):
        measure_table(requests(), 1, checkpoint=path, allow_noisy=False)
    assert first < len(turns) < 2 * first
    count = len(turns)
    table = measure_table(requests(), 1, checkpoint=path, allow_noisy=True)
    assert len(turns) == count
    assert table.is_noisy
    assert table.as_json()["noisy"] is True


def test_monotone_keeps_what_ascends_and_averages_what_does_not() -> None:
    np.testing.assert_array_equal(monotone(np.array([1.0, 2.0, 5.0])), [1, 2, 5])
    np.testing.assert_array_equal(monotone(np.array([1.0, 4.0, 2.0, 5.0])), [1, 3, 3, 5])
    noisy = np.random.default_rng(0).normal(1, 0.3, (4, 5, 3)) + np.arange(5)[:, None]
    fixed = monotone(noisy)
    assert all((np.diff(fixed, axis=axis) >= 0).all() for axis in range(3))


def test_more_work_is_never_predicted_faster_by_a_monotone_kernel() -> None:
    from tests.test_latency_operation import invented

    times = next(t for k, t in invented().kernels.items() if k.startswith("csr:"))
    shaken = times.seconds[..., ::-1] * np.random.default_rng(1).uniform(
        0.9, 1.1, times.seconds.shape
    )  # denser is measured faster, which no such kernel is
    changed = type(times)(times.axes, times.grid, shaken, times.spread, 9, is_monotone=True)
    densities = np.array([[12, 12, d] for d in range(100, 1001, 20)])
    assert (np.diff(changed.at(densities)) >= -1e-12).all()  # seconds; rounding aside
    plain = type(times)(times.axes, times.grid, shaken, times.spread, 9)
    assert (np.diff(plain.at(densities)) < 0).any()  # so the measured times do fall there


def test_points_are_added_where_the_middle_of_a_cell_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    op = sparse_ops()[1]
    widths = tuple(range(4, 68, 4))
    request = KernelRequest(op.template, (widths, widths, DENSITIES))

    def cost(dims: tuple[int, ...]) -> float:
        c_in, c_out, density = dims
        # A bump that no curve along an axis sees: at neither end of the other axes.
        inside = 24 <= c_in <= 48 and 24 <= c_out <= 48
        return (1.5 if inside else 1.0) * (50 + c_in * c_out * density / 1000)

    def timed_turn(session: Session, points: Sequence[Point], n: int) -> None:
        for point in points:
            value = cost(point[1])
            session._samples(point).extend([Timing(value, value, calm=True)] * n)

    monkeypatch.setattr(Session, "time_turn", timed_turn)
    session = Session([op.template.name], 1, lambda *_: None)
    (its,) = sampling.sample(session, [request])
    size = np.prod([len(marks) for marks in its.grid])
    assert size <= 8  # the true form is a product of the axes: the ends are enough
    session.time(its.points, 6, "")
    assert its.errors(session).max() > 0.06
    added = sampling.refine(session, [its])
    assert added
    assert np.prod([len(marks) for marks in its.grid]) > size
    session.time(added, 6, "")
    assert its.errors(session).size < sampling.PROBES
