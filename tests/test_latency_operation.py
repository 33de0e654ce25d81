"""The table alone: operations in words, the command, and the page that documents them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amc.deploy import deployed
from amc.errors import InputError
from amc.latency import KernelTimes, LatencyTable, Operation
from amc.latency.operation import described
from amc.latency.trace import trace_ops
from amc.sparsify import LayerPattern, sparsified

ROOT = Path(__file__).resolve().parent.parent
GRID = {"c_in": (8, 16), "c_out": (8, 16), "in": (32, 64), "out": (10,), "c": (8, 16),
        "density": (100, 500, 1000)}  # fmt: skip
NETWORK = nn.Sequential(
    *(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
    *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.ReLU()),
)


def invented() -> LatencyTable:
    """Return a table of dense and sparse layers in which a point takes sum(widths) us."""
    x = torch.rand(32, 16, 14, 14).to(memory_format=torch.channels_last)
    layers = {"1": LayerPattern("2:4"), "3": LayerPattern("csr", 0.5)}
    ops = trace_ops(sparsified(deployed(NETWORK), layers), (x,))
    ops += trace_ops(deployed(nn.Sequential(nn.Linear(64, 10))), (torch.rand(32, 64),))
    kernels = {}
    for op in ops:
        grid = tuple(GRID[axis] for axis in op.template.axes)
        seconds = 1e-6 * np.sum(np.meshgrid(*grid, indexing="ij"), axis=0)
        kernels[op.kernel] = KernelTimes(
            op.template.axes, grid, seconds, 0 * seconds, 9, what=described(op.template)
        )
    backends = {"dense": "torch-2.13.0/oneDNN", "nm": "c-avx2", "csr": "c-avx2"}
    return LatencyTable({"cpu": "a cpu"}, 1, "2.13.0", backends, "0" * 64, 1e-3, {}, kernels, {})


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return invented()


CONV = {"c_in": 16, "c_out": 12, "height": 14, "width": 14, "kernel_size": [3, 3],
        "padding": [1, 1]}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "micros"),
    [
        (Operation("conv2d", 32, CONV), 28),
        (Operation("conv2d", 32, {"c_in": 8, "c_out": 8}), 16),
        (Operation("conv2d", 32, {**CONV, "relu": True}, "2:4"), 28),
        (Operation("conv2d", 32, {**CONV, "relu": True}, "2:4", 0.5), 28),
        (Operation("conv2d", 32, CONV, "csr", 0.25), 28 + 750),
        (Operation("relu", 32, {"c": 9, "height": 14, "width": 14}), 9),
        (Operation("linear", 32, {"in": 48, "out": 10, "bias": True}), 58),
    ],
)
def test_an_operation_in_words_is_found(table: LatencyTable, op: Operation, micros: float) -> None:
    if op.pattern == "csr":
        op = Operation(op.operation, op.batch, {**op.shape, "relu": True}, op.pattern, op.sparsity)
    assert table.latency(op) == pytest.approx(1e-6 * micros)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            Operation("conv2d", 32, {**CONV, "c_out": 64}),
            "c_out = 64 .* nearest .* c_in 16, c_out 16",
        ),
        (Operation("conv2d", 64, CONV), r"never measured; .* conv2d, dense, batch 32.* us"),
        (Operation("conv3d", 32, CONV), "never measured; the nearest measured point is conv2d"),
        (Operation("linear", 32, {"in": 64}), "never measured; .* linear, dense"),
        (Operation("conv2d", 32, CONV, "4x1", 0.5), "never measured; the nearest"),
        (Operation("conv2d", 32, CONV, "2:4", 0.6), "must be 0.5, but got 0.6; choose 'csr'"),
        (Operation("conv2d", 32, CONV, "csr"), r"`sparsity` .* must be in \[0, 1\), but got None"),
        (Operation("conv2d", 32, CONV, "csr", 0.95), "density = 50 .* density 100"),
        (Operation("conv2d", 32, CONV, threads=2), "2 threads asked for"),
        (Operation("linear", 32, {"in": 64, "out": "x"}), "out must be a whole number"),
    ],
)
def test_what_was_not_measured_is_refused(table: LatencyTable, op: Operation, message: str) -> None:
    with pytest.raises(InputError, match=message):
        table.latency(op)


def test_kernels_that_only_unsaid_things_tell_apart_are_named(table: LatencyTable) -> None:
    dense = next(k for k, t in table.kernels.items() if t.what["operation"] == "linear")
    times = table.kernels[dense]
    changed = KernelTimes(
        times.axes, times.grid, times.seconds, times.spread, 9,
        what={**times.what, "dtype": "float16", "rows": 7},
    )  # fmt: skip
    second = KernelTimes(
        times.axes, times.grid, times.seconds, times.spread, 9,
        what={**times.what, "dtype": "float16", "rows": 9},
    )  # fmt: skip
    both = table.merged({"a": changed, "b": second}, {})
    op = Operation("linear", 32, {"in": 64, "out": 10, "dtype": "float16"})
    with pytest.raises(InputError, match="2 kernels fit; say rows in its shape"):
        both.latency(op)
    assert both.latency(Operation("linear", 32, {"in": 64, "out": 10})) > 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "must be an object"),
        ({"operation": "relu", "batch": 1, "shape": {}, "batchsize": 2}, "did you mean 'batch'"),
        ({"operation": "relu", "shape": {}}, "'batch' .* missing or wrong"),
        ({"operation": "relu", "batch": True, "shape": {}}, "'batch' .* missing or wrong"),
        ({"operation": "relu", "batch": 1, "shape": [3]}, "'shape' .* missing or wrong"),
        ({"operation": "relu", "batch": 1, "shape": {}, "sparsity": "a"}, "'sparsity' .* wrong"),
    ],
)
def test_a_malformed_operation_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Operation.from_json(value)


# Whatever of amc is not amc.latency, and torch, cannot be imported.
ALONE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        mine = name == "amc" or name == "amc.latency" or name.startswith("amc.latency.")
        if name.split(".")[0] in ("torch", "scipy", "search_spaces", "pydantic", "typer") or (
            name.startswith("amc.") and not mine
        ):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from amc.latency.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def documented() -> list[dict[str, Any]]:
    """Return the example of the documentation."""
    text = (ROOT / "docs" / "latency.md").read_text()
    example = re.search(r"\n\n((?:    .*\n)*    \[\n(?:    .*\n)*    \]\n)", text)
    assert example is not None
    found: list[dict[str, Any]] = json.loads(example.group(1))
    return found


def test_the_documented_example_works_without_torch_and_the_rest_of_amc(
    table: LatencyTable, tmp_path: Path
) -> None:
    path, ops = tmp_path / "table.json", tmp_path / "ops.json"
    table.save(path)
    ops.write_text(json.dumps({"operations": documented()}))
    expected = [28, 32, 32 + 200, 16, 74]
    done = alone(str(path), str(ops), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    found = [row["latency_s"] for row in answer["operations"]]
    assert found == pytest.approx([1e-6 * micros for micros in expected])
    assert answer["backend"] == "torch-2.13.0/oneDNN, sparse c-avx2"
    assert answer["latency_s"] == pytest.approx(1e-6 * sum(expected))
    plain = alone(str(path), str(ops))
    assert plain.stdout.splitlines()[0].startswith("0.000028000 s  conv2d dense, batch 32, c_in 16")
    assert "together, on torch-2.13.0/oneDNN, sparse c-avx2" in plain.stdout


def test_the_command_refuses_what_it_cannot_answer(table: LatencyTable, tmp_path: Path) -> None:
    path, ops = tmp_path / "table.json", tmp_path / "ops.json"
    table.save(path)
    ops.write_text(json.dumps([{"operation": "relu", "batch": 32, "shape": {"c": 99}}]))
    done = alone(str(path), str(ops))
    assert done.returncode == 2
    assert "operation 0 of" in done.stderr
    assert "nearest measured point is relu" in done.stderr
    assert alone(str(path), str(tmp_path / "none.json")).returncode == 2
    path.write_text(path.read_text().replace('"threads":1', '"threads":2'))
    done = alone(str(path), str(ops))
    assert (done.returncode, "its digest is not that of its content" in done.stderr) == (2, True)
