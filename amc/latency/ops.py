"""``OpCall``: one operation of a network, its fixed arguments apart from its channel widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Width:
    """A length that is free: ``multiple`` times the width on axis ``axis`` of the call.

    With ``parts`` above 1 it is part ``part`` of that many about equal ones.
    """

    axis: int
    multiple: int = 1
    part: int = 0
    parts: int = 1

    def at(self, dims: Sequence[int]) -> int:
        """Return the length at widths ``dims``."""
        total = self.multiple * dims[self.axis]
        return total * (self.part + 1) // self.parts - total * self.part // self.parts

    def text(self, names: Sequence[str]) -> str:
        """Return the length as it stands in a kernel's key."""
        multiple = f"{self.multiple}*" if self.multiple != 1 else ""
        return multiple + names[self.axis] + (f"/{self.parts}" if self.parts != 1 else "")


@dataclass(frozen=True)
class Operand:
    """A tensor argument. ``order`` lists the dimensions from the largest stride to the smallest."""

    shape: tuple[int | Width, ...]
    order: tuple[int, ...]
    dtype: str
    is_weight: bool

    def shape_at(self, dims: Sequence[int]) -> list[int]:
        """Return the shape at widths ``dims``."""
        return [size.at(dims) if isinstance(size, Width) else size for size in self.shape]

    def text(self, names: Sequence[str]) -> str:
        """Return the operand as it stands in a kernel's key."""
        sizes = [s.text(names) if isinstance(s, Width) else str(s) for s in self.shape]
        text = f"{self.dtype}[{','.join(sizes)}]"
        if self.order == tuple(range(len(self.shape))):
            return text
        if self.order == (0, 2, 3, 1):
            return text + " channels_last"
        return f"{text} strides{''.join(map(str, self.order))}"


@dataclass(frozen=True)
class OpTemplate:
    """An operation with free widths: ``op`` is a torch overload's name, ``axes`` names the widths.

    An axis ``density`` is no width: it counts the stored weights, in thousandths of all.
    ``args`` and ``kwargs`` hold ``Operand``, ``Width``, plain values, and tuples of them.
    ``kernel`` is the name in ``amc.kernels.KERNELS`` of what runs it.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    axes: tuple[str, ...]
    kernel: str = "dense"

    @cached_property
    def key(self) -> str:
        """The text that identifies the kernel in a table: equal keys take equal times."""
        parts = [_text(argument, self.axes) for argument in self.args]
        parts += [f"{name}={_text(value, self.axes)}" for name, value in self.kwargs]
        name = self.op.removeprefix("aten.").removesuffix(".default")
        return f"{self.kernel}:{name}({', '.join(parts)})"

    @property
    def name(self) -> str:
        """The operation's own name, the same for every kernel: ``conv2d``, ``linear``, ``relu``."""
        return self.op.split(".")[1].removeprefix("sparse_")

    @property
    def call_kind(self) -> str:
        """What calling it costs: as a "sparse" layer, a "layer" with weights, or a "function"."""
        if self.kernel != "dense":
            return "sparse"
        weights = any(isinstance(value, Operand) and value.is_weight for value in self.args)
        return "layer" if weights else "function"


@dataclass(frozen=True)
class OpCall:
    """One operation that a network ran: ``template`` at widths ``dims``, inside ``layer``.

    ``layer`` is the dotted name of the module that ran it, or of the last one before it; ``macs``
    are the call's multiply-accumulates, the whole batch.
    """

    template: OpTemplate
    dims: tuple[int, ...]
    layer: str
    macs: int

    @property
    def kernel(self) -> str:
        """The kernel's key in a table."""
        return self.template.key

    @property
    def call_kind(self) -> str:
        """What calling it costs, see ``OpTemplate.call_kind``."""
        return self.template.call_kind


def _text(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, (Operand, Width)):
        return value.text(names)
    if isinstance(value, tuple):
        return "[" + ",".join(_text(element, names) for element in value) + "]"
    return "-" if value is None else str(value)
