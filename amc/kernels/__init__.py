"""Kernel backends by name; each is a class with the interface of ``amc.kernels.dense.Dense``.

Those for sparse weights, ``amc.kernels.family.Sparse``, also pack, unpack, check and run them.
"""

from __future__ import annotations

KERNELS: dict[str, str] = {
    "dense": "amc.kernels.dense:Dense",
    "nm": "amc.kernels.nm:Nm",
    "csr": "amc.kernels.csr:Csr",
    "csc": "amc.kernels.csc:Csc",
    "block": "amc.kernels.block:Block",
}
