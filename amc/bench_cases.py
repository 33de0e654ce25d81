"""What ``amc bench kernels`` times of each shape: dense forms, kernels and rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from amc import bench_rivals as rivals
from amc.bench_rivals import Call, Convolution
from amc.bench_roofline import FEW as FEW_COLUMNS
from amc.bench_shapes import CONVOLUTIONS, PRODUCTS, VECTORS, ZOO, zoo_layers
from amc.kernels import KERNELS, core
from amc.kernels.calls import ready
from amc.kernels.family import Sparse
from amc.kernels.modules import SparseConv2d, SparseLinear
from amc.kernels.packed import SPMM, Packed
from amc.kernels.patterns import KERNEL_OF, UNSTRUCTURED, keep_largest
from amc.registry import lookup

PATTERNS: tuple[tuple[str, float | None], ...] = (
    ("2:4", None),
    ("1:4", None),
    *(("csr", sparsity) for sparsity in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)),
    *(("4x1", sparsity) for sparsity in (0.5, 0.75, 0.9)),
)
FEW: tuple[tuple[str, float | None], ...] = (("2:4", None), ("csr", 0.9), ("csc", 0.9))
QUICK: tuple[tuple[str, float | None], ...] = (("2:4", None), ("csr", 0.5), ("csr", 0.9))
SETS = ("table", "zoo")
GEMV = 3  # columns of a GEMV, at most


Draw = Callable[..., Tensor]
Maker = Callable[[], "Case"]
Patterns = Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class Selection:
    """What is timed: ``sets`` of shapes; ``quick`` takes fewer of them, and three patterns.

    ``batch_size`` is that of the layers of the zoo's networks.
    """

    sets: Sequence[str] = SETS
    batch_size: int = 1
    quick: bool = False


@dataclass(frozen=True)
class Subject:
    """A kernel's row of the benchmark: what it is, and the calls that it may be run by.

    ``size_bytes`` is what one call moves where memory may set the pace, else ``None``.
    """

    row: dict[str, Any]
    calls: Mapping[str, Call]  # by layout; the fastest counts, as it does for dense forms
    rivals: Mapping[str, Call]  # of the same zeros
    alone: Mapping[str, Call] = field(default_factory=dict)  # the compiled kernel itself
    size_bytes: int | None = None

    @property
    def zeros(self) -> str:
        """Which zeros the weight has: subjects of a case that share them share their rivals."""
        pattern = self.row["pattern"]
        where = "unstructured" if pattern in UNSTRUCTURED else pattern
        return f"{where} {self.row['sparsity']}"


@dataclass(frozen=True)
class Case:
    """One shape: dense yardsticks that all subjects share, and the subjects."""

    name: str
    dense: Mapping[str, Call]
    beside: Mapping[str, Call]  # timed and reported, but no yardstick
    subjects: Sequence[Subject]


def all_cases(chosen: Selection) -> list[Maker]:
    """Return makers of all cases; each makes the same numbers whenever it is called.

    A case is made for as many threads as torch has then.
    """
    makers: list[Maker] = []
    patterns = QUICK if chosen.quick else PATTERNS
    some = slice(1, None, 2) if chosen.quick else slice(None)
    columns = (1,) if chosen.quick else (1, 2, 3)
    if "table" in chosen.sets:
        makers += [partial(_product, *shape, "table", patterns) for shape in PRODUCTS[some]]
        makers += [partial(_vector, *shape, n) for shape in VECTORS[some] for n in columns]
        makers += [partial(_convolution, how, "table", patterns) for how in CONVOLUTIONS[some]]
    if "zoo" in chosen.sets:
        zoo = ZOO[:1] if chosen.quick else ZOO
        for layer, networks in zoo_layers(zoo, chosen.batch_size).items():
            about = {"networks": networks}
            if isinstance(layer, Convolution):
                makers.append(partial(_convolution, layer, "zoo", FEW[:2], about))
            else:
                makers.append(partial(_product, *layer, "zoo", FEW, about))
    return makers


def _row(
    group: str, operation: str, pattern: str, sparse: Tensor, shape: Sequence[int], **more: Any
) -> dict[str, Any]:
    return {
        "set": group,
        "operation": operation,
        "kernel": KERNEL_OF[pattern],
        "pattern": pattern,
        "sparsity": round(1 - sparse.count_nonzero().item() / sparse.numel(), 4),
        "shape": list(shape),
        **more,
    }


def _packed(weight: Tensor, pattern: str, sparsity: float | None) -> tuple[type[Sparse], Tensor]:
    kernel: Any = lookup(KERNELS, KERNEL_OF[pattern], "kernel")
    return kernel, keep_largest(weight, pattern, sparsity)


def _draw() -> Draw:
    return partial(torch.randn, generator=torch.Generator().manual_seed(0))


def _moved(packed: Packed, rows: int, depth: int, columns: int) -> int:
    """Return the bytes that one call reads and writes: weight, activations, output."""
    return packed.weight_bytes + 4 * columns * (rows + depth)


def _product(
    rows: int,
    depth: int,
    columns: int,
    group: str,
    patterns: Patterns,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Case:
    """Return a linear layer ``[N, K]``, and, from 4 columns on, the same product of planes."""
    draw = _draw()
    weight, x = draw(rows, depth), draw(depth, columns)
    image = x.reshape(1, depth, *rivals.sides(columns)).contiguous()
    transposed = x.t().contiguous()
    operation = "gemv" if columns <= GEMV else "spmm"
    subjects = []
    for pattern, sparsity in patterns:
        kernel, sparse = _packed(weight, pattern, sparsity)
        packed = kernel.pack(sparse, pattern)
        linear = SparseLinear(packed)
        few = columns <= kernel.most_few_columns(rows)
        name = "linear_few_columns" if few else "linear"
        calls: dict[str, Call] = {name: partial(linear.forward, transposed)}
        if columns > GEMV:
            planes = SparseConv2d(kernel.pack(sparse.reshape(rows, depth, 1, 1), pattern))
            calls["planes"] = partial(planes.forward, image)
        others = rivals.torch_sparse(sparse, x) | rivals.scipy_sparse(sparse, x)
        row = _row(group, operation, pattern, sparse, (rows, depth, columns), **about)
        moved = _moved(packed, rows, depth, columns) if columns <= FEW_COLUMNS else None
        subjects.append(Subject(row, calls, others, size_bytes=moved))
    beside = rivals.onnx_runtime(weight, x)
    return Case(f"{rows}x{depth}x{columns}", rivals.dense_products(weight, x), beside, subjects)


def _vector(rows: int, depth: int, columns: int) -> Case:
    """Return few columns; ``dense_gemv`` is a dense product as fast as memory gives it."""
    weight, forms = _vector_weights(rows, depth)
    x = _draw()(columns, depth)
    transposed = x.t().contiguous()
    subjects = []
    for pattern, values, sparse, packed in forms:
        shape = (rows, depth, columns)
        row = _row("table", "gemv", pattern, sparse, shape, values=values)
        checked = ready(packed.arrays, packed.kernel, pattern, [rows, depth])
        alone = _alone(checked.c_weight, checked.function, x, rows, checked)
        name = "linear" if packed.form == SPMM else "linear_few_columns"
        calls: dict[str, Call] = {name: partial(SparseLinear(packed).forward, x)}
        others = rivals.torch_sparse(sparse, transposed) | rivals.scipy_sparse(sparse, transposed)
        subjects.append(Subject(row, calls, others, alone, _moved(packed, rows, depth, columns)))
    own = _alone(core.Weight(depth=depth, values=weight.data_ptr()), "dense_gemv", x, rows, weight)
    dense = rivals.dense_products(weight, transposed)
    return Case(f"{rows}x{depth}x{columns}", dense, own, subjects)


@lru_cache(maxsize=1)  # packing takes longer than timing
def _vector_weights(rows: int, depth: int) -> tuple[Tensor, list[tuple[str, str, Tensor, Packed]]]:
    """Return a dense weight, and pattern, type of values, zeros and packed weight of each form."""
    weight = _draw()(rows, depth)
    forms = []
    for pattern, sparsity in FEW:
        kernel, sparse = _packed(weight, pattern, sparsity)
        packed = kernel.pack(sparse, pattern, few_columns=pattern != "csr")
        forms.append((pattern, "float32", sparse, packed))
        if pattern == "2:4":
            packed = kernel.pack(sparse, pattern, few_columns=True, half=True)
            forms.append((pattern, "float16", sparse, packed))
    return weight, forms


def _alone(weight: core.Weight, family: str, x: Tensor, rows: int, held: Any) -> dict[str, Call]:
    """Return the compiled kernel of a linear layer without anything around it.

    Small products take less time than a call of any torch operation.
    """
    if core.library() is None:
        return {}
    columns, depth = x.shape
    y = torch.empty(columns, rows)
    call = core.Call(x=x.data_ptr(), y=y.data_ptr(), batch=columns, channels=depth, rows=rows)
    call.height = call.width = call.out_height = call.out_width = call.kernel_h = call.kernel_w = 1
    call.stride_h = call.stride_w = call.dilation_h = call.dilation_w = 1
    call.threads = torch.get_num_threads()
    call.x_stride[:], call.y_stride[:] = (depth, 1, 1, 1), (rows, 1, 1, 1)
    run = core.call(family)

    def product(_alive: Any = (x, held)) -> Tensor:
        run(weight, call)
        return y

    return {family: product}


def _convolution(
    how: Convolution,
    group: str,
    patterns: Patterns,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Case:
    draw = _draw()
    weight = draw(how.rows, how.channels, how.kernel, how.kernel)
    x = draw(how.batch, how.channels, *how.size)
    last = x.contiguous(memory_format=torch.channels_last)
    subjects = []
    for pattern, sparsity in patterns:
        kernel, sparse = _packed(weight, pattern, sparsity)
        packed = kernel.pack(sparse, pattern)
        layer = SparseConv2d(packed, stride=how.stride, padding=how.padding)
        calls: dict[str, Call] = {
            "planes": partial(layer.forward, x),
            "channels_last": partial(layer.forward, last),
        }
        row = _row(group, "conv", pattern, sparse, how.product, conv=how.as_json(), **about)
        subjects.append(Subject(row, calls, rivals.sparse_convolutions(sparse, x, how)))
    name = f"{how.channels}->{how.rows} {how.kernel}x{how.kernel} {how.size}"
    dense = rivals.dense_convolutions(weight, x, how) | rivals.dense_pointwise(weight, x, how)
    return Case(name, dense, rivals.prepacked_convolution(weight, x, how), subjects)
