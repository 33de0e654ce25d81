"""How long operations take on a device: a table of measured times, usable without the rest of amc.

``LatencyTable.load(path)`` and ``table.latency(op)`` need numpy alone; only what runs operations
(``amc.latency.trace``, ``amc.latency.measure``) loads torch.
"""

from __future__ import annotations

from amc.latency.ops import OpCall, Operand, OpTemplate, Width
from amc.latency.table import KernelTimes, LatencyTable, NetworkTime

__all__ = [
    "KernelTimes",
    "LatencyTable",
    "NetworkTime",
    "OpCall",
    "OpTemplate",
    "Operand",
    "Width",
]
