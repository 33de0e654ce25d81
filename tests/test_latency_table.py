"""The table: exact on its grid, linear between, silent about nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amc.errors import InputError
from amc.latency import KernelTimes, LatencyTable, NetworkTime, OpCall, OpTemplate
from amc.latency.device import cache_path, describe_device, kernel_digest, target_path
from amc.latency.grid import interpolate, thin
from amc.latency.table import missing

CONV = OpTemplate("aten.conv2d.default", (), (), ("c_in", "c_out"))


def times(grid: tuple[tuple[int, ...], ...], axes: tuple[str, ...]) -> KernelTimes:
    seconds = 1e-6 * np.add.outer(np.array(grid[0]), 2 * np.array(grid[1])).astype(float)
    return KernelTimes(axes, grid, seconds, np.full(seconds.shape, 0.01), 12, (1,))


@pytest.fixture
def table() -> LatencyTable:
    return LatencyTable(
        device={"cpu": "a cpu", "isa": ["avx2"], "cores": 2},
        threads=1,
        torch_version="2.13.0",
        backends={"dense": "torch-2.13.0/oneDNN", "nm": "c-avx2"},
        kernel_digest="0" * 64,
        reference_s=1e-3,
        call_overhead_s={"layer": 1e-6, "function": 0.0},
        kernels={CONV.key: times(((4, 8, 16), (8, 32)), CONV.axes)},
        networks={"net/batch32": NetworkTime(5e-3, 0.02, 40)},
    )


def test_latency_is_exact_on_the_grid_and_linear_between(table: LatencyTable) -> None:
    for dims in ((4, 8), (16, 32), (8, 8), (6, 20), (15, 9)):
        expected = 1e-6 * (dims[0] + 2 * dims[1])
        assert table.latency(OpCall(CONV, dims, "conv1", 0)) == pytest.approx(expected, rel=1e-12)


def test_many_widths_at_once_agree_with_one_at_a_time(table: LatencyTable) -> None:
    dims = np.array([[4, 8], [5, 31], [16, 32]])
    one = [table.latency(OpCall(CONV, (int(a), int(b)), "", 0)) for a, b in dims]
    np.testing.assert_array_equal(table.latencies(CONV.key, dims), one)


def test_a_kernel_that_was_never_measured_raises_and_names_the_nearest(table: LatencyTable) -> None:
    other = replace(CONV, op="aten.conv2e.default")
    with pytest.raises(InputError, match=r"conv2e.*never measured.*did you mean 'dense:conv2d"):
        table.latency(OpCall(other, (4, 8), "", 0))


@pytest.mark.parametrize("dims", [(2, 8), (17, 8), (4, 7), (4, 33)])
def test_a_width_outside_the_measured_range_raises(
    table: LatencyTable, dims: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match="never measured: the table covers"):
        table.latency(OpCall(CONV, dims, "", 0))


def test_a_saved_table_is_read_back_whole(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.json"
    table.save(path)
    again = LatencyTable.load(path)
    assert again.as_json() == table.as_json()
    assert again.digest == table.digest
    assert [entry.name for entry in path.parent.iterdir()] == ["table.json"]


def test_the_digest_follows_the_content(table: LatencyTable) -> None:
    assert replace(table, reference_s=2e-3).digest != table.digest


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"reference_s": 0},
        {"kernels": {"k": {"axes": ["c"], "grid": [[4, 8]], "seconds": [1e-6], "spread": [0]}}},
        {"kernels": []},
    ],
)
def test_a_corrupt_table_is_refused(
    table: LatencyTable, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table.as_json(), **change}))
    with pytest.raises(InputError, match=r"table\.json is corrupt.*amc measure"):
        LatencyTable.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match="(corrupt|not readable).*; delete it and write it again"):
        LatencyTable.load(path)


def test_a_missing_table_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; write one with `amc measure"):
        LatencyTable.load(tmp_path / "none.json")


def test_missing_looks_at_kernels_and_ranges(table: LatencyTable) -> None:
    assert not missing(table, CONV.key, [(4, 16), (8, 12)])
    assert missing(table, CONV.key, [(1, 16), (8, 12)])
    assert missing(table, "other", [(4,)])


def test_targets_are_auto_a_name_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert target_path("auto", "2.13.0", 2) == cache_path("2.13.0", 2)
    assert cache_path("2.13.0", 2).is_relative_to(tmp_path / "amc")
    assert len({cache_path("2.13.0", 1), cache_path("2.13.0", 2), cache_path("2.14.0", 1)}) == 3
    own = tmp_path / "own.json"
    own.write_text("{}")
    assert target_path(str(own), "2.13.0", 1) == own
    with pytest.raises(InputError, match=r"latency\.target 'atuo'.*did you mean 'auto'"):
        target_path("atuo", "2.13.0", 1)


def test_the_device_and_the_kernels_are_described() -> None:
    device = describe_device()
    assert device["cores"] >= 1
    assert device["cpu"]
    assert len(kernel_digest()) == 64


def test_the_table_can_be_used_without_torch() -> None:
    code = "import sys; from amc.latency import LatencyTable; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_interpolation_in_one_and_no_dimension() -> None:
    points = np.array([[3], [5], [9]])
    values = interpolate([(3, 9)], np.array([1.0, 4.0]), points)
    np.testing.assert_allclose(values, [1, 2, 4])
    np.testing.assert_array_equal(interpolate([(3,)], np.array([7.0]), np.array([[3]])), [7])


def test_a_thinned_grid_keeps_both_ends_of_a_step() -> None:
    widths = tuple(range(4, 68, 4))
    stairs = np.array([1.0 if width <= 32 else 2.0 for width in widths])
    straight = np.array([float(width) for width in widths])
    grid = thin([widths, widths], [straight, stairs], 0.03, 100)
    assert grid == ((4, 64), (4, 32, 36, 64))


def test_a_thinned_grid_stays_within_its_number_of_points() -> None:
    widths = tuple(range(1, 40))
    noise = np.random.default_rng(0).uniform(1, 2, len(widths))
    grid = thin([widths, widths], [noise, noise], 0.0, 50)
    assert 40 <= len(grid[0]) * len(grid[1]) <= 50
