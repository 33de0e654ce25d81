"""Which code a search ran: a digest of the modules that decide what comes out of it.

Comments, docstrings and layout do not count, so only a change that could matter is told.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("amc", "search_spaces", "envs", "agents")


def code_digest(modules: Iterable[str], own_files: Iterable[Path] = ()) -> str:
    """Return the SHA-256 of ``modules`` and of all that they import of this project.

    ``own_files`` are other sources, such as that of a user's task or C++; nothing is imported.
    """
    found = hashlib.sha256()
    for name, file in sorted(_with_imports(modules).items()):
        found.update(f"{name} {_source(file).digest}\n".encode())
    for file in own_files:
        found.update(f"{_source(file).digest}\n".encode())
    return found.hexdigest()


def _with_imports(modules: Iterable[str]) -> dict[str, Path]:
    """Return the files of ``modules`` and of what they import of this project, by module."""
    found: dict[str, Path] = {}
    left = list(modules)
    while left:
        name = left.pop()
        file = None if name in found else _file(name)
        if file is not None:
            found[name] = file
            left += _source(file).imports
    return found


def _file(module: str) -> Path | None:
    """Return the file of a module of this project, ``None`` for any other name."""
    first, *rest = module.split(".")
    if first not in PACKAGES:
        return None
    path = ROOT.joinpath(first, *rest)
    options = (path / "__init__.py", path.with_suffix(".py"))
    return next((option for option in options if option.is_file()), None)


class _Source:
    def __init__(self, content: bytes, suffix: str) -> None:
        self.imports: tuple[str, ...] = ()
        self.digest = hashlib.sha256(content).hexdigest()
        if suffix != ".py":
            return
        tree = ast.parse(content)
        self.imports = tuple(_imports(tree))
        for node in ast.walk(tree):
            _drop_docstring(node)
        self.digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _source(file: Path) -> _Source:
    return _Source(file.read_bytes(), file.suffix)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _drop_docstring(node: ast.AST) -> None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        node.body = node.body[1:] or [ast.Pass()]
