"""``amc bench kernels``: that what is held against each other computes the same, and the sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amc import app_bench, bench_cases, bench_kernels
from amc.bench_cases import Case
from amc.bench_plots import kernel_speedups, predictions
from amc.bench_rivals import Convolution
from amc.errors import InputError
from amc.kernels import core

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
    "speedup_vs_dense": float,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "PRODUCTS", ((24, 40, 9), (16, 32, 35)))
    monkeypatch.setattr(bench_cases, "VECTORS", ((20, 36),))
    monkeypatch.setattr(bench_cases, "CONVOLUTIONS", (Convolution(12, 8, (7, 7), 3, 2, 1),))
    monkeypatch.setattr(bench_cases, "ZOO", ("digits",))


def as_matrix(value: Any, rows: int) -> Tensor:
    """Return any form of a product as [rows, columns]."""
    y = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    if y.dim() == 4:
        return y.permute(1, 0, 2, 3).reshape(rows, -1)
    return y if y.shape[0] == rows else y.t()


def cases() -> list[Case]:
    return [make() for make in bench_cases.all_cases(batch_size=2, threads=1)]


@pytest.mark.usefixtures("small")
def test_all_that_is_compared_computes_the_same_product() -> None:
    found = cases()
    assert {case.name for case in found} >= {"24x40x9", "20x36x1", "20x36x3"}
    compared = 0
    with torch.inference_mode():
        for case in found:
            rows = case.subjects[0].row["shape"][0]
            dense = [as_matrix(call(), rows) for call in case.dense.values()]
            for other in dense[1:]:
                torch.testing.assert_close(other, dense[0], rtol=1e-4, atol=1e-4)
            for subject in case.subjects:
                tolerance = 1e-2 if subject.row.get("values") == "float16" else 1e-4
                mine = [as_matrix(call(), rows) for call in subject.calls.values()]
                its = [as_matrix(call(), rows) for call in subject.rivals.values()]
                for other in [*mine[1:], *its]:
                    torch.testing.assert_close(other, mine[0], rtol=tolerance, atol=tolerance)
                    compared += 1
    assert compared > 50


@pytest.mark.usefixtures("small")
def test_rows_have_the_documented_fields_and_ratios(tmp_path: Path) -> None:
    rows = app_bench.bench_kernels(rounds=5, batch_size=2, out=tmp_path)
    assert {row["set"] for row in rows} == {"table", "zoo"}
    assert {row["operation"] for row in rows} == {"spmm", "gemv", "conv"}
    for row in rows:
        assert all(isinstance(row[name], kind) for name, kind in FIELDS.items())
        assert row["speedup_vs_dense"] == pytest.approx(row["dense_seconds"] / row["seconds"])
        assert row["backend"] == core.backend()
        assert ("conv" in row) == (row["operation"] == "conv")
    products = [row for row in rows if row["operation"] == "spmm"]
    assert all(row["speedup_vs_torch_sparse"] > 0 for row in products)
    if core.library() is not None:
        assert all(row["fraction_of_peak"] > 0 for row in rows)
        columns = [row for row in rows if row["operation"] == "gemv"]
        assert all(row["speedup_vs_dense_gemv"] > 0 for row in columns)
    assert json.loads((tmp_path / "kernels.json").read_text()) == rows
    assert (tmp_path / "kernels.png").read_bytes().startswith(PNG)


def test_the_fastest_dense_form_and_layout_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[Any, float] = {
        ("dense", "mm"): 4.0,
        ("dense", "linear"): 2.0,
        ("beside", "prepacked"): 1.0,
    }
    seconds |= {(0, "planes"): 3.0, (0, "channels_last"): 0.5, (0, "torch_csr"): 5.0}
    monkeypatch.setattr(bench_kernels, "interleaved", lambda calls, rounds: seconds)
    row = {"pattern": "2:4", "sparsity": 0.5, "shape": [2, 4, 8]}
    subject = bench_cases.Subject(
        row, dict.fromkeys(("planes", "channels_last"), list), {"torch_csr": list}
    )
    case = Case("", dict.fromkeys(("mm", "linear"), list), {"prepacked": list}, [subject])

    class Bar:
        def advance(self, n: int = 1, note: str = "") -> None: ...

    (got,) = bench_kernels._timed(case, 5, 1, Bar())  # type: ignore[arg-type]
    assert (got["layout"], got["dense_form"]) == ("channels_last", "linear")
    assert got["speedup_vs_dense"] == 4
    assert got["speedup_vs_torch_sparse"] == 10
    assert got["speedup_vs_prepacked"] == 2


def test_long_calls_get_fewer_rounds_and_all_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    def call(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            now[0] += seconds

        return run

    monkeypatch.setattr("amc.bench_kernels.time.perf_counter", lambda: now[0])
    found = bench_kernels.interleaved({"long": call("long", 0.1), "short": call("short", 0.01)}, 8)
    assert found == {"long": pytest.approx(0.1), "short": pytest.approx(0.01)}
    assert order.count("long") == 2 + 2 * bench_kernels.LEAST_ROUNDS
    assert order.count("short") == 2 + 2 * 8
    assert order[4:8] == ["long", "long", "short", "short"]


def test_means_are_geometric() -> None:
    row = {"set": "table", "operation": "spmm", "pattern": "csr", "sparsity": 0.8}
    rows = [row | {"speedup_vs_dense": 1.0}, row | {"speedup_vs_dense": 4.0, "sparsity": 0.8001}]
    (mean,) = bench_kernels.summary(rows)
    assert mean["speedup_vs_dense"] == pytest.approx(2)
    assert (mean["shapes"], mean["least_vs_dense"]) == (2, 1.0)
    assert mean["speedup_vs_scipy"] is None


@pytest.mark.parametrize("options", [{"rounds": 4}, {"threads": 0}, {"batch_size": 0}])
def test_a_bench_of_nothing_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} must be at least"):
        app_bench.bench_kernels(**options)  # type: ignore[arg-type]


def test_charts_are_drawn(tmp_path: Path) -> None:
    row = {"set": "table", "operation": "spmm", "pattern": "2:4", "sparsity": 0.5}
    kernel_speedups(tmp_path / "k.png", [row | {"speedup_vs_dense": 1.5}], "kernels")
    plan = {"network": "n", "measured_latency_s": 0.01, "predicted_latency_s": 0.011}
    predictions(tmp_path / "p.png", [plan], "latency")
    for name in ("k.png", "p.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
