"""``amc bench kernels``: that what is held against each other computes the same, and the sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amc import app_bench, bench_cases, bench_kernels, bench_roofline, bench_summary
from amc.bench_cases import Case, Selection, Subject
from amc.bench_plots import kernel_speedups, predictions
from amc.bench_rivals import Convolution
from amc.cli.kernel_tables import show_kernels
from amc.errors import InputError
from amc.kernels import core
from amc.kernels.nm import Nm

PNG = b"\x89PNG"
FIELDS = {
    "set": str,
    "operation": str,
    "kernel": str,
    "pattern": str,
    "sparsity": float,
    "shape": list,
    "threads": int,
    "seconds": float,
    "spread": float,
    "speedup_vs_dense": float,
    "speedup_vs_torch_sparse": float,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "PRODUCTS", ((24, 40, 9), (16, 32, 35)))
    monkeypatch.setattr(bench_cases, "VECTORS", ((20, 36),))
    convolutions = (Convolution(12, 8, (7, 7), 3, 2, 1), Convolution(12, 8, (5, 5), batch=2))
    monkeypatch.setattr(bench_cases, "CONVOLUTIONS", convolutions)
    monkeypatch.setattr(bench_cases, "ZOO", ("digits",))


def as_matrix(value: Any, rows: int, columns: int) -> Tensor:
    """Return any form of a product as [rows, columns]."""
    if isinstance(value, list):  # of ONNX Runtime's outputs
        (value,) = value
    y = torch.as_tensor(value)
    if y.dim() == 4:
        return y.permute(1, 0, 2, 3).reshape(rows, columns)
    if y.dim() == 1:
        return y.reshape(rows, columns)
    return y if y.shape == (rows, columns) else y.t()


def cases() -> list[Case]:
    return [make() for make in bench_cases.all_cases(Selection(batch_size=2))]


@pytest.mark.usefixtures("small")
def test_all_that_is_compared_computes_the_same_product() -> None:
    found = cases()
    assert {case.name for case in found} >= {"24x40x9", "20x36x1", "20x36x3"}
    compared = 0
    with torch.inference_mode():
        for case in found:
            rows, _, columns = case.subjects[0].row["shape"]
            every = (*case.dense.values(), *case.beside.values())
            dense = [as_matrix(call(), rows, columns) for call in every]
            for other in dense[1:]:
                torch.testing.assert_close(other, dense[0], rtol=1e-4, atol=1e-4)
            for subject in case.subjects:
                tolerance = 1e-2 if subject.row.get("values") == "float16" else 1e-4
                calls = (*subject.calls.values(), *subject.alone.values())
                mine = [as_matrix(call(), rows, columns) for call in calls]
                its = [as_matrix(call(), rows, columns) for call in subject.rivals.values()]
                for other in [*mine[1:], *its]:
                    torch.testing.assert_close(other, mine[0], rtol=tolerance, atol=tolerance)
                    compared += 1
    assert compared > 150


@pytest.mark.usefixtures("small")
def test_every_shape_has_its_yardsticks_and_rivals() -> None:
    found = {case.name: case for case in cases()}
    product, image = found["16x32x35"], found["8->12 3x3 (7, 7)"]
    forms = {"mm", "linear", "prepacked_linear", "conv2d", "conv2d_channels_last"}
    assert set(product.dense) == forms
    assert set(product.subjects[0].rivals) == {"torch_csr", "torch_csc", "scipy"}
    assert set(product.subjects[0].calls) == {"linear", "planes"}
    assert set(image.dense) == {"conv2d", "conv2d_channels_last"}
    unfolded = {"torch_csr_unfold", "torch_csc_unfold", "scipy_unfold"}
    assert set(image.subjects[0].rivals) == unfolded
    # A 1x1 convolution of several images is a linear layer of their pixels, too.
    assert set(found["8->12 1x1 (5, 5)"].dense) == forms - {"mm"}
    # Products with the same zeros are timed once, whatever the kernel beside them.
    timed = bench_kernels._calls(found["20x36x1"])
    assert [kind for kind, name in timed if name == "torch_csr"] == ["2:4 0.5", "unstructured 0.9"]
    # The zoo's linear layers run as linear layers: digits has one, of 2 columns here.
    linear = [case for case in found.values() if case.subjects[0].row["set"] == "zoo"][-1]
    row = linear.subjects[0].row
    assert (row["operation"], row["shape"][2], row["networks"]) == ("gemv", 2, ["digits"])
    assert set(linear.dense) == forms
    few = row["shape"][2] <= Nm.most_few_columns(row["shape"][0])
    assert set(linear.subjects[0].calls) == {"linear_few_columns" if few else "linear"}


@pytest.mark.usefixtures("small")
def test_rows_have_the_documented_fields_and_ratios(tmp_path: Path) -> None:
    rows = app_bench.bench_kernels(rounds=5, batch_size=2, out=tmp_path)
    assert {row["set"] for row in rows} == {"table", "zoo"}
    assert {row["operation"] for row in rows} == {"spmm", "gemv", "conv"}
    for row in rows:
        assert all(isinstance(row[name], kind) for name, kind in FIELDS.items())
        assert row["backend"] == core.backend()
        assert ("conv" in row) == (row["operation"] == "conv")
        assert ("networks" in row) == (row["set"] == "zoo")
        assert "speedup_vs_one_thread" not in row
    if core.library() is not None:
        assert all(row["fraction_of_peak"] > 0 for row in rows)
        assert all(row["fraction_of_roofline"] > 0.999 * row["fraction_of_peak"] for row in rows)
        assert all(row["limited_by"] for row in rows)
        columns = [row for row in rows if row["operation"] == "gemv" and row["set"] == "table"]
        assert all(row["speedup_vs_dense_gemv"] > 0 for row in columns)
    written = json.loads((tmp_path / "kernels.json").read_text())
    assert written["rows"] == rows
    assert written["means"] == bench_summary.means(rows)
    assert written["backend"] == core.backend()
    assert written["device"]["cores"] >= 1
    assert (tmp_path / "kernels.png").read_bytes().startswith(PNG)


@pytest.mark.usefixtures("small")
def test_two_threads_take_turns_with_one() -> None:
    before = torch.get_num_threads()
    rows = app_bench.bench_kernels(rounds=5, threads=(1, 2), sets=("table",), quick=True)
    assert torch.get_num_threads() == before
    assert [row["threads"] for row in rows].count(1) == len(rows) / 2
    for row in rows:
        assert ("speedup_vs_one_thread" in row) == (row["threads"] == 2)
    assert {row["set"] for row in rows} == {"table"}
    (found,) = [one for one in bench_summary.summary(rows)["means"] if _is_dense_two(one)]
    assert found["speedup_vs_one_thread"] > 0


def _is_dense_two(mean: dict[str, Any]) -> bool:
    return (mean["threads"], mean["operation"], mean["pattern"]) == (2, "spmm", "2:4")


def test_the_fastest_form_counts_and_ratios_are_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine is three times slower in the second and third of three rounds.
    speed = np.array([1.0, 3.0, 3.0])
    took = {
        ("dense", "mm"): 4.0 * speed,
        ("dense", "linear"): 2.0 * speed,
        ("beside", "prepacked"): 1.0 * speed,
        (0, "planes"): 3.0 * speed,
        (0, "channels_last"): np.array([0.5, 1.5, 1.0]),
        ("2:4 0.5", "torch_csr"): 5.0 * speed[:2],  # a long call, which has fewer turns
    }
    samples = {(1, *key): taken for key, taken in took.items()}
    monkeypatch.setattr(bench_kernels, "interleaved", lambda *_: samples | {(1, "peak"): speed})
    row = {"pattern": "2:4", "kernel": "nm", "sparsity": 0.5, "shape": [2, 4, 80]}
    subject = Subject(row, dict.fromkeys(("planes", "channels_last"), list), {"torch_csr": list})
    case = Case("x", dict.fromkeys(("mm", "linear"), list), {"prepacked": list}, [subject])
    name, (got,) = bench_kernels._timed(lambda: case, 5, (1,))
    assert name == "x"
    assert (got["layout"], got["dense_form"]) == ("channels_last", "linear")
    assert (got["seconds"], got["dense_seconds"]) == (1.0, 6.0)
    assert got["speedup_vs_dense"] == 4  # of the ratios 4, 4 and 6
    assert got["speedup_vs_torch_sparse"] == 10
    assert got["speedup_vs_prepacked"] == 2
    assert got["spread"] == pytest.approx(0.5)


def test_the_roofline_is_of_loads_or_of_memory() -> None:
    wide = {"kernel": "csr", "sparsity": 0.5, "shape": [256, 256, 196]}
    flops = 256 * 256 * 196
    bound = bench_roofline.roofline(wide, peak_flops=1e9, size_bytes=0, bandwidth=None)
    assert bound.seconds == pytest.approx(flops / 1e9 * 9 / 8)
    assert bound.limit == "loads"
    block = bench_roofline.roofline(wide | {"kernel": "block"}, 1e9, 0, None)
    assert block.seconds == pytest.approx(flops / 1e9)
    assert block.limit == "multiply-adds"
    vector = {"kernel": "nm", "sparsity": 0.5, "shape": [512, 512, 1]}
    slow = bench_roofline.roofline(vector, 1e12, size_bytes=1000, bandwidth=1e3)
    assert (slow.seconds, slow.limit) == (1.0, "memory")
    fast = bench_roofline.roofline(vector, 1e3, size_bytes=1000, bandwidth=1e9)
    assert fast.seconds == pytest.approx(512 * 512 / 1e3)
    assert fast.limit == "multiply-adds"


def test_long_calls_get_fewer_rounds_and_all_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    def call(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            now[0] += seconds

        return run

    monkeypatch.setattr("amc.bench_kernels.time.perf_counter", lambda: now[0])
    found = bench_kernels.interleaved({"long": call("long", 0.1), "short": call("short", 0.001)}, 8)
    assert found["long"].tolist() == pytest.approx([0.1] * bench_kernels.LONG_ROUNDS)
    assert found["short"].tolist() == pytest.approx([0.001] * 8)
    # The long ones need no call that warms up; the shortest have one.
    assert order.count("long") == 2 + bench_kernels.LONG_ROUNDS
    assert order.count("short") == 2 + 2 * 8
    assert order[4:8] == ["long", "short", "short", "long"]


def test_whose_turn_it_is_is_told_before_each() -> None:
    told: list[str] = []
    done: list[str] = []
    calls = {name: (lambda name=name: done.append(told[-1] + name)) for name in "ab"}
    bench_kernels.interleaved(calls, 5, told.append)
    assert set(done) == {"aa", "bb"}


def product(sparsity: float, speedup: float, **more: Any) -> dict[str, Any]:
    row = {"set": "table", "operation": "spmm", "pattern": "csr", "kernel": "csr", "threads": 1}
    return row | {"sparsity": sparsity, "speedup_vs_dense": speedup, "shape": [8, 8, 32]} | more


def test_means_are_geometric() -> None:
    rows = [product(0.8, 1.0), product(0.8001, 4.0)]
    (mean,) = bench_summary.means(rows)
    assert mean["speedup_vs_dense"] == pytest.approx(2)
    assert (mean["shapes"], mean["least_vs_dense"]) == (2, 1.0)
    assert mean["speedup_vs_scipy"] is None
    images = [product(0.8, 1.0, operation="conv", speedup_vs_scipy_unfold=3.0)]
    assert bench_summary.means(images)[0]["speedup_vs_scipy"] == pytest.approx(3)


def test_headlines_take_their_own_rows_alone() -> None:
    rows = [
        product(0.5, 1.5, pattern="2:4"),
        product(0.5, 9.0, pattern="2:4", shape=[8, 8, 8]),
        product(0.5, 6.0, pattern="2:4", shape=[512, 8, 32]),
        product(0.5, 9.0, pattern="2:4", threads=2, speedup_vs_one_thread=1.7),
        product(0.5, 9.0, pattern="2:4", threads=2, shape=[512, 8, 32], speedup_vs_one_thread=1.8),
    ]
    found = {one["what"]: one for one in bench_summary.headlines(rows)}
    assert found.keys() == {"2:4 products, N >= 16, over dense", "2 threads over one, M >= 256"}
    over_dense = found["2:4 products, N >= 16, over dense"]
    assert over_dense["geometric_mean"] == pytest.approx(3)
    assert (over_dense["least"], over_dense["rows"]) == (1.5, 2)
    assert found["2 threads over one, M >= 256"]["least"] == 1.8


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ({0.3: 0.5, 0.5: 2.0}, {"sparsity": pytest.approx(0.4), "relation": "at"}),
        ({0.3: 1.1, 0.5: 2.0}, {"sparsity": 0.3, "relation": "at most"}),
        ({0.5: 0.9, 0.3: 0.5}, {"sparsity": 0.5, "relation": "above"}),
        ({}, None),
    ],
)
def test_crossover_lies_where_the_mean_is_one(speedups: dict[float, float], expected: Any) -> None:
    rows = [product(sparsity, speedup) for sparsity, speedup in speedups.items()]
    assert bench_summary.crossover(rows) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 4}, "rounds must be at least 5, but got 4"),
        ({"threads": (1, 0)}, "threads must be at least 1, but got 1, 0"),
        ({"threads": ()}, "threads must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, but got 0"),
        ({"sets": ("tabel",)}, "set 'tabel' is unknown; did you mean 'table'"),
        ({"sets": ("",)}, "set '' is unknown; known: table, zoo"),
    ],
)
def test_a_bench_of_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        app_bench.bench_kernels(**options)


def test_tables_show_every_shape_and_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    more = {"backend": "c-avx2", "dense_seconds": 2e-6, "speedup_vs_onnx_runtime": 1.25}
    rows = [
        product(0.5, 1.5, pattern="2:4", **more),
        product(0.3, 0.5, **more),
        product(0.5, 2.0, **more),
    ]
    show_kernels(rows)
    shown = capsys.readouterr().out
    assert "c-avx2" in shown
    (line,) = [line for line in shown.splitlines() if line.strip().startswith("8 x 8 x 32")]
    assert line.split()[5:] == ["2", "1.50x", "0.50x", "2.00x"]
    assert "as fast as dense at 40% sparsity" in shown
    assert "2:4 products, N >= 16, over ONNX Runtime's dense" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_charts_are_drawn(tmp_path: Path) -> None:
    kernel_speedups(tmp_path / "k.png", [product(0.5, 1.5, threads=2)], "kernels")
    plan = {"network": "n", "measured_latency_s": 0.01, "predicted_latency_s": 0.011}
    predictions(tmp_path / "p.png", [plan], "latency")
    for name in ("k.png", "p.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
