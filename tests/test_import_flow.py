"""Imports flow one way: ``amc <- search_spaces <- envs <- agents``; ``amc/app.py`` composes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("amc", "search_spaces", "envs", "agents")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
ONLY_FILE = {
    "ray": "amc/ray_workers.py",
    "mlflow": "amc/mlflow_tracking.py",
    "torch_pruning": "amc/coupling.py",
}
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn"}


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def composes(path: Path) -> bool:
    """Whether a file is part of the composition root, which may import every layer."""
    name = relative(path)
    roots = {
        *("amc/app.py", "amc/app_arena.py", "amc/app_bench.py", "amc/app_plans.py"),
        "amc/assembly.py",
        "amc/__main__.py",
    }
    return name in roots or name.startswith("amc/cli/")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_imports_a_layer_above_its_own(path: Path) -> None:
    own = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = LAYERS[own + 1 :]
    if not composes(path):
        assert [name for name in imported(path) if name.split(".")[0] in above] == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_the_command_line_imports_the_composition_root(path: Path) -> None:
    if not composes(path):
        upwards = [
            n
            for n in imported(path)
            if re.match(r"amc\.(app|app_arena|app_bench|app_plans|assembly|cli)(\.|$)", n)
        ]
        assert upwards == []


@pytest.mark.parametrize("library", ONLY_FILE)
def test_one_file_imports(library: str) -> None:
    importers = {
        relative(path)
        for path in FILES
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert importers <= {ONLY_FILE[library]}


def test_nothing_is_called_utils() -> None:
    names = {part for path in FILES for part in (path.stem, *path.relative_to(ROOT).parts[:-1])}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~ \[]", line)[0].lower() for line in project["dependencies"]}
    libraries = {name.split(".")[0] for path in FILES for name in imported(path)}
    foreign = libraries - set(sys.stdlib_module_names) - set(LAYERS)
    assert {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in foreign} <= declared


def test_import_amc_is_light() -> None:
    code = (
        "import sys, amc, amc.cli; "
        "print(sorted({'torch', 'ray', 'mlflow', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
