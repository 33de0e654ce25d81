"""Foreign top-level packages are told, never executed; the house's files agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from amc import layout
from amc.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def stranger(folder: Path) -> Path:
    """Write a package ``agents`` that leaves a trace when executed; return the path of that."""
    trace = folder / "executed"
    package = folder / "agents"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    return trace


def test_own_packages_pass() -> None:
    layout.check_layout()


def test_a_strangers_agents_is_named_and_never_executed(tmp_path: Path) -> None:
    trace = stranger(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import amc.cli; amc.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", "plan.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr
    assert not trace.exists()


def test_a_missing_package_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PACKAGES", ("no_such_package_of_amc",))
    with pytest.raises(InputError, match="make setup"):
        layout.check_layout()


def test_a_stranger_is_named_with_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PACKAGES", ("pytest",))
    with pytest.raises(InputError, match="installed by pytest"):
        layout.check_layout()


def test_constraints_pin_every_declared_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    declared = {re.sub(r"[-_.]+", "-", re.split(r"[<>=]", w)[0]).lower() for w in wanted}
    assert declared <= names
    assert pins["torch"] == "2.13.0"
    assert not [pin for pin in pins.values() if "+" in pin]


def test_notice_of_the_shipped_images() -> None:
    notice = (ROOT / "amc" / "zoo" / "NOTICE").read_text()
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in notice
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in notice
