"""What the build makes: wheels with the library, and without a compiler wheels that still work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("amc", "search_spaces", "envs", "agents")
DATA = {".html", ".json", ".npz", ".safetensors", ".typed", ".h", ".cpp", ".hpp", ""}
LIBRARY = "amc/kernels/libamc_kernels.so"
# Multiplies a 2:4 weight by whatever runs, and says what that was.
MULTIPLY = """
import torch
from amc.kernels import core
from amc.kernels.nm import Nm
dense = torch.eye(8)[:, :8].clone()
y = Nm.run(Nm.pack(dense, "2:4"), torch.arange(24.0).reshape(3, 8))
assert y.tolist() == torch.arange(24.0).reshape(3, 8).tolist(), y
print(core.__file__, core.backend(), core.why_no_library(), sep="\\n")
"""


def build(kind: str, folder: Path, settings: dict[str, str], **environment: str) -> zipfile.ZipFile:
    """Build a ``wheel`` or ``editable`` through the build backend, as pip would; return it."""
    code = (
        "import sys; from scikit_build_core import build\n"
        f"build.build_{kind}({str(folder)!r}, {settings!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def python(code: str, cwd: Path, path: Path, **environment: str) -> list[str]:
    """Return the lines that ``code`` prints with ``path`` first on the import path."""
    kept = {k: v for k, v in os.environ.items() if k not in {"AMC_KERNELS", "AMC_ISA"}}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build("wheel", tmp_path_factory.mktemp("wheel"), {}, CXX="/bin/false")


def test_a_wheel_ships_every_file_of_the_packages(without_compiler: zipfile.ZipFile) -> None:
    shipped = set(without_compiler.namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in DATA | {".py"}
    }
    assert {"amc/py.typed", "amc/zoo/fashion_pack.npz", "amc/schema/plan-v1.json"} <= wanted
    assert {name for name in shipped if ".dist-info/" not in name} == wanted


def test_without_a_compiler_the_slower_backend_runs(
    without_compiler: zipfile.ZipFile, tmp_path: Path
) -> None:
    assert str(without_compiler.filename).endswith("-py3-none-any.whl")
    without_compiler.extractall(tmp_path / "site")
    file, backend, why = python(MULTIPLY, tmp_path, tmp_path / "site")
    assert Path(file) == tmp_path / "site/amc/kernels/core.py"
    assert backend == "torch"
    assert re.search("does not exist; .*make kernels", why)


@pytest.mark.slow
def test_with_a_compiler_the_library_is_in_the_wheel(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("no C++ compiler here")
    settings = {"cmake.build-type": "Debug", "cmake.define.AMC_ISAS": "baseline"}
    wheel = build("wheel", tmp_path / "wheel", settings)
    assert LIBRARY in wheel.namelist()
    assert re.search(r"-py3-none-(linux|macosx)_\w+\.whl$", str(wheel.filename))
    wheel.extractall(tmp_path / "site")
    file, backend, why = python(MULTIPLY, tmp_path, tmp_path / "site")
    assert Path(file) == tmp_path / "site/amc/kernels/core.py"
    assert (backend, why) == ("c-baseline", "")


def test_an_editable_install_is_a_line_on_the_import_path(tmp_path: Path) -> None:
    wheel = build("editable", tmp_path / "wheel", {}, CXX="/bin/false")
    assert not [
        name for name in wheel.namelist() if name.startswith(tuple(f"{p}/" for p in PACKAGES))
    ]
    wheel.extractall(tmp_path / "site")
    # Another checkout, first on the import path, must win over the installed one.
    other = tmp_path / "other" / "amc" / "__init__.py"
    other.parent.mkdir(parents=True)
    other.write_text("")
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); import amc, agents; "
    code += "print(amc.__file__, agents.__file__, sep='\\n')"
    found = python(code, tmp_path, tmp_path / "other")
    assert found == [str(other), str(ROOT / "agents" / "__init__.py")]


def test_setup_runs_again_when_the_build_changes() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make here")
    done = subprocess.run(
        [make, "--print-data-base", "--question"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    (rule,) = re.findall(r"^\.venv/\.set-up: (pyproject.*)$", done.stdout, re.MULTILINE)
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "amc").glob("*/csrc/*.*")}
    assert sources | {"pyproject.toml", "constraints.txt", "CMakeLists.txt"} == set(rule.split())
