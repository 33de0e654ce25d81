"""``LatencyTable``: measured times of kernels on one device, as a JSON file. Nothing is guessed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from amc.errors import InputError
from amc.latency.grid import Floats, Ints, interpolate
from amc.latency.ops import OpCall
from amc.plan import digest
from amc.registry import nearest

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class KernelTimes:
    """Times of one kernel on the product of ``grid``, one tuple of ascending widths an axis.

    ``seconds`` are medians and ``spread`` the interquartile range divided by the median, both of
    the grid's shape; ``repeats`` is the number of timings a point; ``noisy`` lists the points
    (positions in row-major order) whose median stayed uncertain by more than 5%.
    """

    axes: tuple[str, ...]
    grid: tuple[tuple[int, ...], ...]
    seconds: Floats
    spread: Floats
    repeats: int
    noisy: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the times as JSON values, to the nanosecond."""
        return {
            "axes": list(self.axes),
            "grid": [list(marks) for marks in self.grid],
            "seconds": np.round(self.seconds, 9).tolist(),
            "spread": np.round(self.spread, 4).tolist(),
            "repeats": self.repeats,
            "noisy": list(self.noisy),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> KernelTimes:
        """Return what ``as_json`` wrote; ``ValueError`` where shapes or numbers are impossible."""
        grid = tuple(tuple(int(width) for width in marks) for marks in value["grid"])
        shape = tuple(len(marks) for marks in grid)
        seconds = np.asarray(value["seconds"], dtype=np.float64)
        spread = np.asarray(value["spread"], dtype=np.float64)
        if seconds.shape != shape or spread.shape != shape or len(value["axes"]) != len(grid):
            raise ValueError(f"seconds has shape {list(seconds.shape)}, its grid {list(shape)}")
        if any(list(marks) != sorted(set(marks)) or not marks for marks in grid):
            raise ValueError("grid must ascend")
        if not (np.isfinite(seconds).all() and (seconds > 0).all()):
            raise ValueError("seconds must be finite and above 0")
        axes = tuple(str(axis) for axis in value["axes"])
        return KernelTimes(
            axes, grid, seconds, spread, int(value["repeats"]), tuple(value["noisy"])
        )


@dataclass(frozen=True)
class NetworkTime:
    """A whole network's median time for one batch, measured in the session of its kernels."""

    latency_s: float
    spread: float
    repeats: int


@dataclass(frozen=True)
class LatencyTable:
    """What one device takes for each measured kernel, with a given number of threads.

    ``device`` describes the processor; ``backend`` names what runs the kernels and
    ``kernel_digest`` their sources. ``reference_s`` is the time of a fixed operation
    (``amc.latency.measure.Reference``) in the session that the times belong to: later ones are
    brought to it. ``call_overhead_s`` is what calling a "layer" or a "function" inside a network
    costs beyond the call itself; the kernels' times include it.
    ``networks`` holds whole networks by ``network_key``.
    """

    device: Mapping[str, Any]
    threads: int
    torch_version: str
    backend: str
    kernel_digest: str
    reference_s: float
    call_overhead_s: Mapping[str, float]
    kernels: Mapping[str, KernelTimes]
    networks: Mapping[str, NetworkTime]

    def latency(self, op: OpCall) -> float:
        """Return the predicted seconds of one operation inside a network.

        Raises ``InputError`` for a kernel or a width that was never measured.
        """
        return float(self.latencies(op.kernel, np.asarray([op.dims], dtype=np.int64))[0])

    def latencies(self, kernel: str, dims: Ints) -> Floats:
        """Return the seconds ``[B]`` of ``kernel`` at widths ``dims`` ``[B, axes]``."""
        times = self.kernels.get(kernel)
        if times is None:
            raise InputError(self._unknown(kernel))
        for axis, marks in enumerate(times.grid):
            outside = dims[(dims[:, axis] < marks[0]) | (dims[:, axis] > marks[-1]), axis]
            if len(outside):
                raise InputError(
                    f"width {times.axes[axis]} = {outside[0]} of kernel {kernel!r} was never "
                    f"measured: the table covers {marks[0]} to {marks[-1]}; measure again with "
                    "`amc measure` for this network and search space"
                )
        return interpolate(times.grid, times.seconds, dims)

    def _unknown(self, kernel: str) -> str:
        close = nearest(kernel, list(self.kernels))
        return (
            f"kernel {kernel!r} was never measured on {self.device.get('cpu', 'this device')} with "
            f"{self.threads} thread(s){close or ';'} Measure it with `amc measure` for this "
            "network, batch size and search space"
        )

    @property
    def digest(self) -> str:
        """The content digest: equal digests, equal predictions."""
        return digest(self.as_json())

    def merged(
        self, kernels: Mapping[str, KernelTimes], networks: Mapping[str, NetworkTime]
    ) -> LatencyTable:
        """Return the table with further (or replaced) kernels and networks."""
        return replace(
            self,
            kernels={**self.kernels, **kernels},
            networks={**self.networks, **networks},
        )

    def as_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "device": dict(self.device),
            "threads": self.threads,
            "torch": self.torch_version,
            "backend": self.backend,
            "kernel_digest": self.kernel_digest,
            "reference_s": round(self.reference_s, 9),
            "call_overhead_s": {k: round(v, 10) for k, v in self.call_overhead_s.items()},
            "networks": {
                key: {
                    "latency_s": round(n.latency_s, 9),
                    "spread": round(n.spread, 4),
                    "repeats": n.repeats,
                }
                for key, n in sorted(self.networks.items())
            },
            "kernels": {key: self.kernels[key].as_json() for key in sorted(self.kernels)},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> LatencyTable:
        """Return what ``as_json`` wrote; or raise what reading it raised."""
        if value["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {value['schema_version']!r} is not {SCHEMA_VERSION}")
        if not float(value["reference_s"]) > 0:
            raise ValueError("reference_s must be above 0")
        return LatencyTable(
            device=dict(value["device"]),
            threads=int(value["threads"]),
            torch_version=str(value["torch"]),
            backend=str(value["backend"]),
            kernel_digest=str(value["kernel_digest"]),
            reference_s=float(value["reference_s"]),
            call_overhead_s={k: float(v) for k, v in value["call_overhead_s"].items()},
            kernels={k: KernelTimes.from_json(v) for k, v in value["kernels"].items()},
            networks={k: NetworkTime(**v) for k, v in value["networks"].items()},
        )

    def save(self, path: Path) -> None:
        """Write the table to ``path``, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), indent=None, separators=(",", ":"))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @staticmethod
    def load(path: Path) -> LatencyTable:
        """Return the table in ``path``; ``InputError`` where there is none or it is corrupt."""
        try:
            return LatencyTable.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(
                f"latency table {path} does not exist; write one with `amc measure --out {path}`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"latency table {path} is corrupt ({type(error).__name__}: {error}); delete it and "
                f"write it again with `amc measure --out {path}`"
            ) from None


def network_key(network_digest: str, batch_size: int) -> str:
    """Return the key in ``LatencyTable.networks`` of a network at a batch size."""
    return f"{network_digest}/batch{batch_size}"


def missing(table: LatencyTable, kernel: str, reachable: Sequence[Sequence[int]]) -> bool:
    """Return whether ``table`` lacks ``kernel`` or any of its ``reachable`` widths."""
    times = table.kernels.get(kernel)
    return times is None or any(
        widths[0] < marks[0] or widths[-1] > marks[-1]
        for widths, marks in zip(reachable, times.grid, strict=True)
    )
