"""Operations by description: what a table's kernels are, and finding the one that is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any

from amc.latency.errors import meant, refused
from amc.latency.ops import Operand, OpTemplate, Width

if TYPE_CHECKING:
    from amc.latency.times import KernelTimes

TYPES: dict[str, Any] = {
    "operation": str, "shape": Mapping, "pattern": str, "sparsity": int | float | None,
    "batch": int, "threads": int,
}  # fmt: skip
FIELDS = tuple(TYPES)
# What is meant where nothing is said, asked for in this order.
USUAL: dict[str, Any] = {
    "relu": False, "bias": True, "layout": "channels_last", "stride": [1, 1], "padding": [0, 0],
    "dilation": [1, 1], "groups": 1, "dtype": "float32", "inputs": 1,
}  # fmt: skip
DENSITY = "density"
UNIT = 1000  # of an axis of densities
CONVOLUTION = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Operation:
    """One operation in words: ``{"operation": "conv2d", "batch": 32, "shape": {...}, ...}``.

    ``shape`` names lengths and whatever else tells kernels apart (docs/latency.md lists them);
    what it leaves out may have any value, if one kernel alone fits then. ``sparsity`` is the share
    of zeros in [0, 1), ``None`` where the pattern says it.
    """

    operation: str
    batch: int
    shape: Mapping[str, Any] = field(default_factory=dict)
    pattern: str = "dense"
    sparsity: float | None = None
    threads: int = 1

    @staticmethod
    def from_json(value: Any) -> Operation:
        """Return the operation of a JSON object; raises where a field is unknown or of no use."""
        if not isinstance(value, Mapping):
            raise refused(f"an operation must be an object with {', '.join(FIELDS)}: got {value!r}")
        for name in value:
            if name not in FIELDS:
                raise refused(
                    f"an operation has no field {name!r}{meant(name, FIELDS)} "
                    f"Known: {', '.join(FIELDS)}"
                )
        for name, kind in TYPES.items():
            given = value.get(name)
            required = name in {"operation", "batch", "shape"}
            if (required or name in value) and (not isinstance(given, kind) or given is True):
                raise refused(f"field {name!r} of an operation is missing or wrong: {value!r}")
        return Operation(**value)

    @property
    def call_kind(self) -> str:
        """What calling it costs: as a "sparse" layer, a dense "layer", or a "function"."""
        if self.pattern != "dense":
            return "sparse"
        return "layer" if self.operation in {"conv2d", "linear"} else "function"

    def __str__(self) -> str:
        """Return the operation on one line."""
        sparsity = "" if self.sparsity is None else f" at sparsity {self.sparsity:g}"
        shape = ", ".join(f"{name} {value}" for name, value in self.shape.items())
        return f"{self.operation} {self.pattern}{sparsity}, batch {self.batch}, {shape}"


def described(template: OpTemplate) -> dict[str, Any]:
    """Return what tells a kernel apart from others, as JSON values; its widths are left out."""
    name = template.name
    operands = [a for a in _flat(template.args) if isinstance(a, Operand)]
    x = operands[0] if operands else Operand((), (), "float32", False)
    shape = [template.axes[s.axis] if isinstance(s, Width) else s for s in x.shape]
    facts: dict[str, Any] = {
        "operation": name,
        "pattern": template.args[3] if template.kernel != "dense" else "dense",
        "kernel": template.kernel,
        "batch": shape[0] if shape and isinstance(shape[0], int) else 1,
        "layout": "channels_last" if x.order == (0, 2, 3, 1) else "contiguous",
        "dtype": x.dtype,
    }
    lengths = dict(zip(("height", "width", "depth"), shape[2:], strict=False))
    if name == "conv2d":
        return facts | lengths | _convolution(template)
    if name == "linear":
        bias = template.args[5 if template.kernel != "dense" else 2 :][:1]
        relu = template.kernel != "dense" and bool(template.args[6])
        rows = {"rows": shape[1]} if len(shape) == 3 else {}
        return facts | rows | {"bias": bool(bias and bias[0] is not None), "relu": relu}
    plain = [a for a in template.args if not _operands(a)]
    more = {"inputs": len(operands)} | ({"arguments": _listed(plain)} if plain else {})
    return facts | lengths | more


def _convolution(template: OpTemplate) -> dict[str, Any]:
    args = template.args
    if template.kernel != "dense":
        taps, bias, rest, relu = args[4][2:], args[5], (*args[6:9], 1), bool(args[9])
    else:
        weight = args[1]
        taps, bias, relu = weight.shape[2:], args[2] if len(args) > 2 else None, False
        rest = (*args[3:], *((1, 1), (0, 0), (1, 1), 1)[len(args[3:]) :])
    values = [_named(v, template.axes) for v in rest]
    return {
        "kernel_size": _listed(taps),
        **dict(zip(CONVOLUTION, values, strict=False)),
        "bias": bias is not None,
        "relu": relu,
    }


def _named(value: Any, axes: Sequence[str]) -> Any:
    return axes[value.axis] if isinstance(value, Width) else _listed(value)


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, (tuple, list)) else value


def _flat(value: Any) -> list[Any]:
    return [x for v in value for x in _flat(v)] if isinstance(value, tuple) else [value]


def _operands(value: Any) -> bool:
    return any(isinstance(v, (Operand, Width)) for v in _flat(value))


def find(
    kernels: Mapping[str, KernelTimes], op: Operation, threads: int
) -> tuple[str, tuple[int, ...]]:
    """Return the key of the kernel in ``kernels`` that runs ``op``, and the numbers on its axes.

    Raises where none does, naming the nearest measured point, or where several do.
    """
    if op.threads != threads:
        raise refused(
            f"{op}: {op.threads} threads asked for, but the table was measured with {threads}; "
            "take a table of that number"
        )
    found = [key for key, times in kernels.items() if _misses(times, op) == 0]
    for name, usual in USUAL.items():
        if len(found) > 1 and name not in op.shape:
            likely = [key for key in found if kernels[key].what.get(name, usual) == usual]
            found = likely or found
    if not found:
        near = _near(kernels, op)
        raise refused(f"{op} was never measured; the nearest measured point is {near}")
    if len(found) > 1:
        first, second = (kernels[key].what for key in found[:2])
        differ = [n for n in {**first, **second} if first.get(n) != second.get(n)]
        raise refused(f"{op}: {len(found)} kernels fit; say {' and '.join(differ)} in its shape")
    times = kernels[found[0]]
    return found[0], tuple(_on_axis(times, op, axis) for axis in times.axes)


def _wanted(op: Operation, times: KernelTimes) -> dict[str, Any]:
    """Return what a kernel's description must say for ``op``."""
    fixed = {name: value for name, value in op.shape.items() if name not in times.axes}
    return {"operation": op.operation, "pattern": op.pattern, "batch": op.batch, **fixed}


def _misses(times: KernelTimes, op: Operation) -> float:
    """Return how far a kernel is from ``op``: 0 where it is the one meant."""
    far = sum(_apart(times.what.get(name), v) for name, v in _wanted(op, times).items())
    return far + 10 * sum(axis not in op.shape and axis != DENSITY for axis in times.axes)


def _apart(have: Any, want: Any) -> float:
    if have == want:
        return 0.0
    numbers = all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in (have, want))
    return abs(log(have / want)) if numbers else 10.0


def _on_axis(times: KernelTimes, op: Operation, axis: str) -> int:
    if axis == DENSITY:
        if op.sparsity is None or not 0 <= op.sparsity < 1:
            raise refused(
                f"{op}: `sparsity` for pattern {op.pattern!r} must be in [0, 1), but got "
                f"{op.sparsity}"
            )
        return max(1, round(UNIT * (1 - op.sparsity)))
    _check_sparsity(times, op)
    width = op.shape[axis]
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise refused(f"{op}: {axis} must be a whole number above 0, but got {width!r}")
    return width


def _check_sparsity(times: KernelTimes, op: Operation) -> None:
    """Raise where ``op`` names a sparsity that its pattern does not have."""
    if op.sparsity is None or DENSITY in times.axes:
        return
    keep, _, group = op.pattern.partition(":")
    own = 0.0 if op.pattern == "dense" else 1 - int(keep) / int(group)
    if op.sparsity != own:
        raise refused(
            f"{op}: `sparsity` for pattern {op.pattern!r} must be {own:g}, but got "
            f"{op.sparsity:g}; choose 'csr' for other sparsities"
        )


def _near(kernels: Mapping[str, KernelTimes], op: Operation) -> str:
    """Return in words the measured point that is nearest to ``op``."""
    if not kernels:
        return "none: the table is empty"
    key = min(kernels, key=lambda k: _misses(kernels[k], op))
    times = kernels[key]
    wishes = [op.shape.get(a, times.grid[i][-1]) for i, a in enumerate(times.axes)]
    if op.sparsity is not None and DENSITY in times.axes:
        wishes[times.axes.index(DENSITY)] = round(UNIT * (1 - op.sparsity))
    wishes = [w if isinstance(w, int) else times.grid[i][-1] for i, w in enumerate(wishes)]
    return times.nearest(wishes)
