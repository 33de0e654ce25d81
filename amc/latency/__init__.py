"""How long operations take on a device: a table of measured times, usable without the rest of amc.

``LatencyTable.load(path)`` and ``table.latency(op)`` need numpy alone, as does ``python -m
amc.latency TABLE OPS.json`` (docs/latency.md); only what runs operations (``amc.latency.trace``,
``amc.latency.measure``) loads torch and other parts of amc.
"""

from __future__ import annotations

from amc.latency.operation import Operation
from amc.latency.ops import OpCall, Operand, OpTemplate, Width
from amc.latency.table import LatencyTable, NetworkTime
from amc.latency.times import KernelTimes

__all__ = [
    "KernelTimes",
    "LatencyTable",
    "NetworkTime",
    "OpCall",
    "OpTemplate",
    "Operand",
    "Operation",
    "Width",
]
