"""``LatencyTable``: measured times of kernels on one device, as a JSON file. Nothing is guessed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from amc.latency.calls import DENSE_AFTER_SPARSE, counted
from amc.latency.errors import meant, read_json, refused
from amc.latency.grid import Floats, Ints
from amc.latency.operation import Operation, find
from amc.latency.ops import OpCall
from amc.latency.part import Part
from amc.latency.times import LONGEST_S, WIDEST, KernelTimes

SCHEMA_VERSION = 2
MOST_BYTES = 64_000_000  # of a table's file; one of 100 kernels has 300,000
NOISY_SHARE = 0.05  # of a table's points: with more noisy ones it is a noisy table


@dataclass(frozen=True)
class NetworkTime:
    """A whole network's median time for one batch, measured in the session of its kernels."""

    latency_s: float
    spread: float
    repeats: int

    @staticmethod
    def from_json(value: Part) -> NetworkTime:
        """Return what a table holds of a network; ``ValueError`` for impossible numbers."""
        return NetworkTime(
            value["latency_s"].number(LONGEST_S, above=0),
            value["spread"].number(LONGEST_S),
            value["repeats"].whole(0, WIDEST),
        )


@dataclass(frozen=True)
class LatencyTable:
    """What one device takes for each measured kernel, with a given number of threads.

    ``device`` describes the processor; ``backends`` names what runs each family of kernels and
    ``kernel_digest`` their sources. ``reference_s`` is the time of a fixed operation
    (``amc.latency.session.Reference``) in the session that the times belong to: later ones are
    brought to it. ``call_overhead_s`` is what calling a "layer", a "sparse" layer or a "function"
    inside a network costs beyond the call itself, which the kernels' times include, and what a
    dense layer takes longer right after a sparse one, which they do not.
    ``networks`` holds whole networks by ``network_key``. ``clocks`` and ``versions`` describe the
    first session, ``protocol`` says in words how everything was timed.
    """

    device: Mapping[str, Any]
    threads: int
    torch_version: str
    backends: Mapping[str, str]
    kernel_digest: str
    reference_s: float
    call_overhead_s: Mapping[str, float]
    kernels: Mapping[str, KernelTimes]
    networks: Mapping[str, NetworkTime]
    clocks: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    protocol: Mapping[str, str] = field(default_factory=dict)

    @property
    def backend(self) -> str:
        """What runs the kernels, on one line."""
        sparse = sorted({name for kernel, name in self.backends.items() if kernel != "dense"})
        return ", ".join([self.backends.get("dense", "none"), *(f"sparse {n}" for n in sparse)])

    @property
    def noisy_points(self) -> int:
        """How many points stayed noisy."""
        return sum(len(times.noisy) for times in self.kernels.values())

    @property
    def is_noisy(self) -> bool:
        """Whether more than ``NOISY_SHARE`` of the points stayed noisy."""
        points = sum(times.seconds.size for times in self.kernels.values())
        return self.noisy_points > NOISY_SHARE * points

    def latency(self, op: OpCall | Operation) -> float:
        """Return the predicted seconds of one operation inside a network.

        Raises ``ValueError`` (``amc.errors.InputError`` where that is there), which names the
        nearest measured point, for a kernel or a width that was never measured.
        """
        if isinstance(op, Operation):
            kernel, dims = find(self.kernels, op, self.threads)
        else:
            kernel, dims = op.kernel, op.dims
        return float(self.latencies(kernel, np.asarray([dims], dtype=np.int64))[0])

    def network_latency(self, ops: Sequence[OpCall | Operation]) -> float:
        """Return the predicted seconds of operations that a network runs in this order.

        The sum of ``latency``, and for every dense layer right after a sparse one what it takes
        longer, its data having left the caches. Raises like ``latency``.
        """
        switches = counted(op.call_kind for op in ops)[DENSE_AFTER_SPARSE]
        longer_s = switches * self.call_overhead_s.get(DENSE_AFTER_SPARSE, 0.0)
        return sum(self.latency(op) for op in ops) + longer_s

    def latencies(self, kernel: str, dims: Ints) -> Floats:
        """Return the seconds ``[B]`` of ``kernel`` at widths ``dims`` ``[B, axes]``."""
        times = self.kernels.get(kernel)
        if times is None:
            raise refused(self._unknown(kernel))
        return times.at(dims)

    def _unknown(self, kernel: str) -> str:
        return (
            f"kernel {kernel!r} was never measured on {self.device.get('cpu', 'this device')} with "
            f"{self.threads} thread(s){meant(kernel, self.kernels) or ';'} Measure it with "
            "`amc measure` for this network, batch size, patterns and search space"
        )

    @property
    def digest(self) -> str:
        """The content digest: equal digests, equal predictions."""
        return _digest(self.as_json())

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
            "versions": dict(self.versions),
            "backends": dict(self.backends),
            "kernel_digest": self.kernel_digest,
            "reference_s": round(self.reference_s, 9),
            "clocks": dict(self.clocks),
            "protocol": dict(self.protocol),
            "noisy": self.is_noisy,
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
    def from_json(value: Any) -> LatencyTable:
        """Return what ``as_json`` wrote; ``ValueError`` names the first field that is not so."""
        table = Part(value)
        table["schema_version"].whole(SCHEMA_VERSION, SCHEMA_VERSION)
        content = {name: part for name, part in value.items() if name != "digest"}
        if "digest" in value and value["digest"] != _digest(content):
            raise table["digest"].refused("its digest is not that of its content")
        overheads = table["call_overhead_s"].parts()
        return LatencyTable(
            device=table["device"].plain(),
            threads=table["threads"].whole(1, 1024),
            torch_version=table["torch"].text(),
            backends={kernel: name.text() for kernel, name in table["backends"].parts().items()},
            kernel_digest=table["kernel_digest"].text(),
            reference_s=table["reference_s"].number(LONGEST_S, above=0),
            call_overhead_s={kind: part.number(LONGEST_S) for kind, part in overheads.items()},
            kernels={k: KernelTimes.from_json(v) for k, v in table["kernels"].parts().items()},
            networks={k: NetworkTime.from_json(v) for k, v in table["networks"].parts().items()},
            clocks=table["clocks"].plain(),
            versions=table["versions"].plain(),
            protocol=table["protocol"].plain(),
        )

    def save(self, path: Path) -> None:
        """Write the table and its digest to ``path``, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"digest": self.digest, **self.as_json()}
        text = json.dumps(content, indent=None, separators=(",", ":"))
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
    def load(path: str | Path) -> LatencyTable:
        """Return the table in ``path``; ``InputError`` where there is none or it is corrupt."""
        if not Path(path).exists():
            raise refused(
                f"latency table {path} does not exist; write one with `amc measure --out {path}`"
            )
        remedy = f"delete it and write it again with `amc measure --out {path}`"
        try:
            value = read_json(Path(path), "latency table", MOST_BYTES, remedy)
            return LatencyTable.from_json(value)
        except (OSError, ValueError) as error:
            if remedy in str(error):
                raise
            raise refused(f"latency table {path} is corrupt ({error}); {remedy}") from None


def _digest(value: Any) -> str:
    """Return the SHA-256 of canonical JSON, as ``amc.plan.digest``, which stands elsewhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
