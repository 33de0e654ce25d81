"""Kernel backends by name; each is a class with the interface of ``amc.kernels.dense.Dense``."""

from __future__ import annotations

KERNELS: dict[str, str] = {
    "dense": "amc.kernels.dense:Dense",
}
