"""The compiled library: one interface on both sides, found or missed with a reason, one OpenMP."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from amc.errors import InputError
from amc.kernels import core

ROOT = Path(__file__).resolve().parent.parent.parent
HEADER = (ROOT / "amc" / "kernels" / "csrc" / "amc_kernels.h").read_text()
DECLARATIONS = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Look for the library anew in this test, and again after it."""
    core._loaded.cache_clear()
    yield
    core._loaded.cache_clear()


@pytest.fixture
def built() -> Iterator[ctypes.CDLL]:
    """Return the library; the test may select another instruction set."""
    handle = core.library()
    if handle is None:
        pytest.skip(f"no compiled kernels: {core.why_no_library()}")
    before = str(handle.amc_isa().decode())
    yield handle
    assert handle.amc_select_isa(before.encode()) == 0


def dense_gemv(weight: Tensor, x: Tensor, bias: Tensor, *, batch: int = 1) -> Tensor:
    """Return ``weight @ x + bias`` by the library's dense yardstick."""
    rows, depth = weight.shape
    y = torch.full((batch, rows), torch.nan)
    call = core.Call(
        x=x.data_ptr(), y=y.data_ptr(), bias=bias.data_ptr(), batch=batch, channels=depth, rows=rows
    )
    for name in ("height", "width", "out_height", "out_width", "kernel_h", "kernel_w", "threads"):
        setattr(call, name, 1)
    call.stride_h = call.stride_w = call.dilation_h = call.dilation_w = 1
    call.x_stride[:] = (depth, 1, depth, depth)
    call.y_stride[:] = (rows, 1, rows, rows)
    run = core.call("dense_gemv")
    run(core.Weight(depth=depth, block=64, keep=4, values=weight.data_ptr()), call)
    return y[0]


@pytest.mark.parametrize(
    ("name", "structure"), [("amc_weight", core.Weight), ("amc_call", core.Call)]
)
def test_the_structures_are_those_of_the_header(
    name: str, structure: type[ctypes.Structure]
) -> None:
    bodies = {
        n: body for body, n in re.findall(r"struct \{(.*?)\} (\w+);", DECLARATIONS, re.DOTALL)
    }
    fields: list[tuple[str, type]] = []
    for kind, names in re.findall(r"((?:const )?\w+) ([^;]+);", bodies[name]):
        for declared in names.split(","):
            match = re.fullmatch(r"(\*?)(\w+)(?:\[(\d+)\])?", declared.strip())
            assert match, declared
            pointer, field, length = match.groups()
            assert pointer or kind == "int64_t"
            plain = ctypes.c_void_p if pointer else ctypes.c_int64
            fields.append((field, plain * int(length) if length else plain))
    assert structure._fields_ == fields


def test_the_numbers_and_functions_are_those_of_the_header() -> None:
    assert f"#define AMC_ABI {core.ABI}\n" in HEADER
    assert f"AMC_NO_MEMORY = {core.NO_MEMORY}, AMC_BAD_CALL = {core.BAD_CALL} " in HEADER
    pattern = r"int amc_(\w+)\(const amc_weight \*weight, const amc_call \*call\);"
    assert tuple(re.findall(pattern, DECLARATIONS)) == core.FAMILIES


def test_the_library_gives_away_the_headers_functions_alone(built: ctypes.CDLL) -> None:
    nm = shutil.which("nm")
    if nm is None or sys.platform != "linux":
        pytest.skip("needs nm, and the symbol tables of Linux")
    done = subprocess.run(
        [nm, "-D", "--defined-only", built._name], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    assert {name for name in names if not name.startswith("_ZS")} == set(
        re.findall(r"(amc_\w+)\(", DECLARATIONS)
    )


def test_one_openmp_serves_torch_and_the_library(built: ctypes.CDLL) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    code = (
        "from amc.kernels import core\n"
        "assert core.library() is not None\n"
        "lines = open('/proc/self/maps').read().splitlines()\n"
        "print(*sorted({line.split()[-1] for line in lines if 'omp' in line.split('/')[-1]}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == 1, done.stdout


def test_every_instruction_set_of_this_processor_runs(built: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(33, 71, generator=generator)
    x, bias = torch.randn(71, generator=generator), torch.randn(33, generator=generator)
    reference = weight.double() @ x.double() + bias.double()
    size = weight.double().abs() @ x.double().abs() + bias.double().abs()
    ran = []
    for name in core.isas():
        if built.amc_select_isa(name.encode()) == 0:
            assert core.backend() == f"c-{name}"
            assert bool(((dense_gemv(weight, x, bias) - reference).abs() <= 1e-6 * size).all())
            ran.append(name)
    assert ran[:1] == [core.isas()[0]], "the slowest runs everywhere"


def test_an_unknown_instruction_set_is_refused(built: ctypes.CDLL) -> None:
    before = core.backend()
    with pytest.raises(InputError, match="'mmx', which was not built; leave it out"):
        core.select_isa("mmx")
    assert core.backend() == before


@pytest.mark.usefixtures("fresh")
def test_amc_isa_selects(built: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    slowest = core.isas()[0]
    monkeypatch.setenv("AMC_ISA", slowest)
    core._loaded.cache_clear()
    assert core.backend() == f"c-{slowest}"
    monkeypatch.setenv("AMC_ISA", "sse9")
    core._loaded.cache_clear()
    with pytest.raises(InputError, match="AMC_ISA must be one of .*'sse9', which was not built"):
        core.library()
    monkeypatch.delenv("AMC_ISA")
    core._loaded.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_amc_kernels_torch_takes_the_slower_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMC_KERNELS", "torch")
    assert core.library() is None
    assert core.backend() == "torch"
    assert core.isas() == ()
    assert "unset it" in core.why_no_library()
    with pytest.raises(InputError, match="'nm' needs the compiled kernels: AMC_KERNELS=torch"):
        core.call("nm")
    with pytest.raises(InputError, match="instruction set 'avx2' needs the compiled kernels"):
        core.select_isa("avx2")
    with pytest.raises(InputError, match="peak"):
        core.peak_flops()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("value", "message"),
    [("fast", "must be 'torch' or the path of a library"), ("/none.so", "does not exist")],
)
def test_another_amc_kernels_is_refused(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMC_KERNELS", value)
    with pytest.raises(InputError, match=message):
        core.library()


@pytest.mark.usefixtures("fresh")
def test_a_missing_library_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMC_KERNELS", raising=False)
    monkeypatch.setattr(core, "PATH", tmp_path / "none.so")
    assert core.backend() == "torch"
    assert re.search(r"none\.so does not exist; .*make kernels", core.why_no_library())


@pytest.mark.usefixtures("fresh")
def test_a_broken_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMC_KERNELS", raising=False)
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(core, "PATH", broken)
    assert core.backend() == "torch"
    assert re.search(r"cannot be loaded \(.*make kernels", core.why_no_library())


@pytest.mark.usefixtures("fresh")
def test_a_library_of_another_interface_is_not_used(
    built: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMC_KERNELS", raising=False)
    monkeypatch.setattr(core, "PATH", Path(built._name))
    monkeypatch.setattr(core, "ABI", core.ABI + 1)
    core._loaded.cache_clear()
    assert core.backend() == "torch"
    assert f"has interface {core.ABI - 1}, but {core.ABI} is needed" in core.why_no_library()


def test_a_refused_call_raises_and_writes_nothing(built: ctypes.CDLL) -> None:
    x, y = torch.zeros(4), torch.full((4,), 7.0)
    call = core.Call(x=x.data_ptr(), y=y.data_ptr(), batch=1, channels=4, rows=4, threads=0)
    weight = core.Weight(depth=4, block=64, keep=2, values=x.data_ptr())
    with pytest.raises(InputError, match="'csr' does not take these sizes"):
        core.call("csr")(weight, call)
    assert y.tolist() == [7.0] * 4


def test_every_code_of_the_library_has_its_exception() -> None:
    assert isinstance(core._error("nm", core.NO_MEMORY), MemoryError)
    assert isinstance(core._error("nm", core.BAD_CALL), InputError)
    assert isinstance(core._error("nm", 77), RuntimeError)
