"""What a table says of how it came about: device, versions, backends; and a sitting's facts."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from amc.kernels import KERNELS
from amc.latency.device import describe_clocks, describe_device, kernel_digest
from amc.latency.sampling import KernelRequest
from amc.latency.session import Kernel, Session, WholeNetwork
from amc.latency.table import LatencyTable
from amc.registry import lookup


def running_backends(requests: Sequence[KernelRequest]) -> dict[str, str]:
    """Return what runs each family of kernels here and now."""
    kernels: dict[str, Kernel] = {
        name: lookup(KERNELS, name, "kernel")
        for name in sorted({"dense", *(r.template.kernel for r in requests)})
    }
    return {name: kernel.backend() for name, kernel in kernels.items()}


def of_these_backends(table: LatencyTable, requests: Sequence[KernelRequest]) -> LatencyTable:
    """Return ``table`` without the kernels that something else runs now."""
    now = running_backends(requests)
    other = {name for name, its in now.items() if table.backends.get(name, its) != its}
    if not other:
        return table
    return replace(
        table,
        kernels={k: t for k, t in table.kernels.items() if k.partition(":")[0] not in other},
        backends={name: its for name, its in table.backends.items() if name not in other},
        call_overhead_s={k: v for k, v in table.call_overhead_s.items() if k != "sparse"},
    )


def facts_of(
    wanted: Sequence[KernelRequest],
    networks: Sequence[WholeNetwork],
    threads: int,
    table: LatencyTable | None,
) -> dict[str, Any]:
    """Return everything that a sitting depends on beside its timings."""
    return {
        "kernels": [[r.template.key, r.reachable, r.positions] for r in wanted],
        "networks": [its.key for its in networks],
        "threads": threads,
        "torch": torch.__version__,
        "backends": running_backends(wanted),
        "kernel_digest": kernel_digest(),
        "device": describe_device(),
        "table": table and table.digest,
    }


def empty_table(threads: int, session: Session, protocol: Mapping[str, str]) -> LatencyTable:
    """Return a table of this device without kernels, on the session's clock."""
    low, middle, high = np.percentile(session.reference_s, (5, 50, 95))
    return LatencyTable(
        device=describe_device(),
        threads=threads,
        torch_version=torch.__version__,
        backends={},
        kernel_digest=kernel_digest(),
        reference_s=float(middle),
        call_overhead_s={},
        kernels={},
        networks={},
        clocks={**describe_clocks(), "reference_drift": round(float((high - low) / middle), 4)},
        versions=_versions(),
        protocol=protocol,
    )


def _versions() -> dict[str, str]:
    try:
        own = version("amc")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "amc": own,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def with_backends(table: LatencyTable, wanted: Sequence[KernelRequest]) -> LatencyTable:
    """Return ``table`` with the names of what runs the kernels ``wanted``."""
    return replace(table, backends={**table.backends, **running_backends(wanted)})
