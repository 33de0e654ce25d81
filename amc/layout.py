"""Whether the top-level packages of this repository are the ones that Python would import.

Other distributions also install packages called ``agents`` or ``envs``. They are looked up without
being imported, so a stranger's code is never run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from amc.errors import InputError

PACKAGES = ("search_spaces", "envs", "agents")
ROOT = Path(__file__).resolve().parent.parent


def check_layout() -> None:
    """Raise ``InputError`` unless each of ``PACKAGES`` would be imported from beside ``amc``."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        own = ROOT / package / "__init__.py"
        found = None if spec is None else spec.origin
        if found is not None and Path(found).resolve() == own:
            continue
        if found is None:
            raise InputError(
                f"package {package!r} must lie beside amc, at {own.parent}, but is not found; "
                "install again with `make setup`"
            )
        raise InputError(
            f"package {package!r} must be the one beside amc, at {own.parent}, but {found} comes "
            f"first on the import path{_owner(package)}; uninstall that distribution, or use an "
            "environment of its own for amc (`make setup` makes one)"
        )


def _owner(package: str) -> str:
    from importlib.metadata import packages_distributions

    owners = [name for name in packages_distributions().get(package, []) if name != "amc"]
    return f" (installed by {', '.join(sorted(set(owners)))})" if owners else ""
