"""The machine a table belongs to, where its cached table lies, and the shipped targets."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from statistics import median
from typing import Any

from amc.errors import InputError
from amc.printable import shown
from amc.registry import nearest

TARGETS = Path(__file__).resolve().parent.parent / "targets"
KERNELS = Path(__file__).resolve().parent.parent / "kernels"

# Raised when a change of amc.latency.measure changes the times that it reports.
PROTOCOL = 2

ISA = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")


def describe_device() -> dict[str, Any]:
    """Return the processor's model, architecture, instruction sets and number of usable cores."""
    model, flags = "", set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^(?:model name|Processor|CPU part)\s*:\s*(.+)$", text, re.MULTILINE)
        model = found.group(1).strip() if found else ""
        listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        flags = set(listed.group(1).split()) if listed else set()
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "isa": [name for name in ISA if name in flags],
        "cores": usable_cores(),
    }


def describe_clocks() -> dict[str, Any]:
    """Return the median clock of the cores now, in MHz, and what governs it, as far as it says."""
    clocks: dict[str, Any] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)$", text, re.MULTILINE)
        if found:
            clocks["mhz"] = round(median(map(float, found)))
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.exists():
        clocks["governor"] = governor.read_text(encoding="utf-8").strip()
    return clocks


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kernel_digest() -> str:
    """Return the SHA-256 of the kernels' sources and of the way in which they are timed."""
    content = hashlib.sha256(f"protocol {PROTOCOL}".encode())
    for path in sorted(KERNELS.rglob("*")):
        if path.suffix in {".py", ".c", ".cc", ".cpp", ".h", ".hpp"}:
            content.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()


def cache_path(torch_version: str, threads: int) -> Path:
    """Return where this machine's own table lies in the user's cache folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    device = describe_device()
    name = re.sub(r"[^A-Za-z0-9]+", "-", device["cpu"]).strip("-").lower()
    isa = hashlib.sha256(" ".join([device["machine"], *device["isa"]]).encode()).hexdigest()[:6]
    file = f"{name}-{isa}-torch{torch_version}-{kernel_digest()[:12]}-threads{threads}.json"
    return root / "amc" / "latency" / file


def target_path(target: str, torch_version: str, threads: int) -> Path:
    """Return the file of ``latency.target``: ``auto``, a shipped target's name, or a path.

    ``auto`` is this machine's own table, which need not exist yet; for any other ``InputError`` is
    raised where there is no such file.
    """
    if target == "auto":
        return cache_path(torch_version, threads)
    shipped = {path.stem: path for path in sorted(TARGETS.glob("*.json"))}
    if target in shipped:
        return shipped[target]
    path = Path(target)
    if path.is_file():
        return path
    known = ["auto", *shipped]
    raise InputError(
        f"latency.target {shown(target)} is neither a known target nor a file"
        f"{nearest(target, known) or ';'} Known: {', '.join(known)}"
    )
