"""What a search runs on, as far as it decides how numbers are rounded."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from amc.latency.device import describe_device
from amc.scoring import library

PACKAGES = ("numpy", "scipy", "stable-baselines3")


def machine_facts() -> dict[str, Any]:
    """Return processor and versions, on which a search comes out the same to the last bit."""
    device = describe_device()
    return {
        "cpu": device["cpu"],
        "isa": " ".join(device["isa"]),
        "scoring_level": library.level(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in PACKAGES},
    }
