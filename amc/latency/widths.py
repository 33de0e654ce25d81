"""Which lengths of an operation's tensors are channel widths: one function a family of operations.

Sparse operations have an axis more where the number of stored weights is free: their density.

Everything else about a call (batch, spatial size, kernel, stride, layout) is fixed and becomes part
of the kernel's key. Where a network's widths do not follow these conventions, the keys of its
narrowed forms differ, and ``amc.network_cost`` says so; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

from torch import Tensor

from amc.latency.ops import Width

DENSITY_UNIT = 1000  # densities are in thousandths of the dense weights
GROUP, BLOCK_ROWS = 4, 4  # of the patterns N:4 along input channels, and 4x1 along outputs


@dataclass
class Widths:
    """The axes of one call: their names and values, and where they stand.

    ``where`` maps (position among the tensors of the call, dimension) to a ``Width``;
    ``macs_per_output`` are the call's multiply-accumulates for one element of its output, on
    average; ``length_arguments`` names the arguments that carry lengths, as against strides and
    paddings; ``fixed`` gives whole arguments their recorded form; tensors at the positions
    ``packed`` are of no shape of their own.
    """

    names: list[str] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    where: dict[tuple[int, int], Width] = field(default_factory=dict)
    macs_per_output: Fraction = Fraction(0)
    length_arguments: frozenset[str] = frozenset({"normalized_shape", "size", "shape"})
    fixed: dict[str, tuple[int | Width, ...]] = field(default_factory=dict)
    packed: frozenset[int] = frozenset()

    def add(self, name: str, value: int, *places: tuple[int, int]) -> None:
        """Add an axis that stands, as it is, at each of ``places``."""
        self.names.append(name)
        self.values.append(value)
        for place in places:
            self.where[place] = Width(len(self.names) - 1)

    def follows(self, argument: str, value: Any) -> Width | None:
        """Return the axis that an integer argument follows, ``None`` where it is fixed."""
        if argument in self.length_arguments and value in self.values:
            return Width(self.values.index(value))
        return None


def channel_dim(tensor: Tensor) -> int:
    """Return the second dimension of ``[N, C]`` and ``[N, C, H, ...]``, the last of ``[N, T, C]``.

    ``[C]`` has its only one, and a number has -1.
    """
    return {0: -1, 1: 0, 3: 2}.get(tensor.dim(), 1)


def elementwise(tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return the widths of anything that has no family of its own: equal lengths are one axis.

    A channel dimension of length 1 is broadcast, and no width.
    """
    widths = Widths()
    for position, tensor in enumerate(tensors):
        dim = channel_dim(tensor)
        if dim < 0 or tensor.shape[dim] == 1:
            continue
        size = tensor.shape[dim]
        if size in widths.values:
            widths.where[position, dim] = Width(widths.values.index(size))
        else:
            widths.add(
                "c" if not widths.names else f"c{len(widths.names) + 1}", size, (position, dim)
            )
    return widths


def convolution(tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return ``c`` of a depthwise convolution, else ``c_in`` and ``c_out``, groups fixed."""
    x, weight = tensors[0], tensors[1]
    x_dim = x.dim() - weight.dim() + 1
    c_in, c_out, group_width = x.shape[x_dim], weight.shape[0], weight.shape[1]
    groups = c_in // group_width
    widths = Widths(macs_per_output=Fraction(prod(weight.shape[1:])))
    if groups > 1 and group_width == 1:
        widths.add("c", c_in, (0, x_dim))
        outs = [(1, 0), *([(2, 0)] if len(tensors) > 2 else [])]
        widths.where.update({place: Width(0, c_out // c_in) for place in outs})
        widths.length_arguments = frozenset({"groups"})
        return widths
    widths.add("c_in", c_in, (0, x_dim))
    widths.where[1, 1] = Width(0) if groups == 1 else Width(0, part=0, parts=groups)
    widths.add("c_out", c_out, (1, 0), *([(2, 0)] if len(tensors) > 2 else []))
    return widths


def linear(tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return ``in`` and ``out`` of ``linear(x, weight, bias)``."""
    x, weight = tensors[0], tensors[1]
    widths = Widths(macs_per_output=Fraction(weight.shape[1]))
    widths.add("in", weight.shape[1], (0, x.dim() - 1), (1, 1))
    widths.add("out", weight.shape[0], (1, 0), *([(2, 0)] if len(tensors) > 2 else []))
    return widths


def product(tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return ``in`` and ``out`` of ``mm``, ``matmul``, ``bmm``, and ``addmm``."""
    x, y = tensors[-2], tensors[-1]
    first = len(tensors) - 2
    widths = Widths(macs_per_output=Fraction(x.shape[-1]))
    places = [(first, x.dim() - 1)]
    if y.dim() > 1:
        widths.add("in", x.shape[-1], *places, (first + 1, y.dim() - 2))
        bias = [(0, tensors[0].dim() - 1)] if first and tensors[0].shape[-1] > 1 else []
        widths.add("out", y.shape[-1], (first + 1, y.dim() - 1), *bias)
    else:
        widths.add("in", x.shape[-1], *places, (first + 1, 0))
    return widths


def concatenation(tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return the total ``c`` of a concatenation of channels; it is timed in about equal parts."""
    dim = int(args[1]) % tensors[0].dim() if len(args) > 1 else 0
    if dim != channel_dim(tensors[0]):
        return elementwise(tensors, args)
    widths = Widths()
    widths.add("c", sum(t.shape[dim] for t in tensors))
    for position in range(len(tensors)):
        widths.where[position, dim] = Width(0, part=position, parts=len(tensors))
    return widths


def sparse(tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return the widths of ``amc::sparse_linear`` and ``amc::sparse_conv2d``, and their density.

    Of the pattern ``nm`` the widths alone say how many weights are stored.
    """
    x, starts = tensors[0], tensors[3]
    kernel, pattern, shape = args[2:5]
    is_linear = len(shape) == 2
    names = ("in", "out") if is_linear else ("c_in", "c_out")
    stored = stored_weights(kernel, pattern, shape, starts)
    widths = Widths(macs_per_output=Fraction(stored, shape[0]), packed=frozenset({1, 2, 3, 4}))
    widths.add(names[0], shape[1], (0, x.dim() - (1 if is_linear else 3)))
    widths.add(names[1], shape[0], *([(5, 0)] if len(tensors) > 5 else []))
    if kernel != "nm":
        rows = -(-shape[0] // BLOCK_ROWS) * BLOCK_ROWS if kernel == "block" else shape[0]
        density = round(DENSITY_UNIT * stored / (rows * prod(shape[1:])))
        widths.add("density", min(max(density, 1), DENSITY_UNIT))
    widths.fixed["shape"] = (Width(1), Width(0), *shape[2:])
    return widths


def stored_weights(kernel: str, pattern: str, shape: Sequence[int], starts: Tensor) -> int:
    """Return how many weights, stored zeros included, are multiplied for one column."""
    if kernel == "nm":
        keep = int(pattern.partition(":")[0])
        return shape[0] * -(-shape[1] // GROUP) * keep * prod(shape[2:])
    slots = int(starts[-1].item()) if starts.numel() else 0
    return slots * (BLOCK_ROWS if kernel == "block" else 1)


Family = Callable[[Sequence[Tensor], Sequence[Any]], Widths]

# By torch's name of the operation, without namespace and overload.
FAMILIES: dict[str, Family] = {
    "conv1d": convolution,
    "conv2d": convolution,
    "conv3d": convolution,
    "convolution": convolution,
    "linear": linear,
    "mm": product,
    "matmul": product,
    "bmm": product,
    "addmm": product,
    "cat": concatenation,
    "concat": concatenation,
    "sparse_linear": sparse,
    "sparse_conv2d": sparse,
}


def widths_of(operation: str, tensors: Sequence[Tensor], args: Sequence[Any]) -> Widths:
    """Return the widths of one call of torch's ``operation``."""
    return FAMILIES.get(operation, elementwise)(tensors, args)
