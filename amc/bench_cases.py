"""The shapes that ``amc bench kernels`` times, each with its dense forms, kernels and rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from amc import bench_rivals as rivals
from amc.bench_rivals import Call, Convolution
from amc.kernels import KERNELS, core
from amc.kernels.calls import ready
from amc.kernels.family import Sparse
from amc.kernels.patterns import KERNEL_OF, keep_largest
from amc.registry import lookup

# Weight [M, K] times activations [K, N]: the layers of ResNet-50 and of a small transformer.
PRODUCTS = (
    (64, 64, 3136),
    (128, 128, 784),
    (256, 256, 196),
    (512, 512, 49),
    (256, 1152, 196),
    (768, 768, 128),
    (3072, 768, 128),
    (1024, 1024, 16),
)
VECTORS = ((512, 512), (768, 768), (1024, 1024), (3072, 768), (4096, 1024), (4096, 4096))
CONVOLUTIONS = (
    Convolution(64, 64, (56, 56), 3, 1, 1),
    Convolution(128, 64, (28, 28), 3, 1, 1),
    Convolution(256, 128, (14, 14), 3, 1, 1),
    Convolution(256, 256, (14, 14), 3, 1, 1),
    Convolution(512, 512, (7, 7), 3, 1, 1),
)
PATTERNS: tuple[tuple[str, float | None], ...] = (
    ("2:4", None),
    ("1:4", None),
    *(("csr", sparsity) for sparsity in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)),
    *(("4x1", sparsity) for sparsity in (0.5, 0.75, 0.9)),
)
FEW = (("2:4", None), ("csr", 0.9), ("csc", 0.9))  # for layers of networks and for vectors
ZOO = ("resnet8", "resnet20", "mobilenet")


Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Subject:
    """A kernel's row of the benchmark: what it is, and the calls that it may be run by."""

    row: dict[str, Any]
    calls: Mapping[str, Call]  # by memory layout; the fastest counts, as it does for dense forms
    rivals: Mapping[str, Call]  # of the same zeros
    alone: Mapping[str, Call] = field(default_factory=dict)  # the compiled kernel itself


@dataclass(frozen=True)
class Case:
    """One shape: dense yardsticks that all subjects share, and the subjects."""

    name: str
    dense: Mapping[str, Call]
    beside: Mapping[str, Call]  # timed and reported, but no yardstick
    subjects: Sequence[Subject]


def all_cases(batch_size: int, threads: int) -> Iterator[Callable[[], Case]]:
    """Yield makers of all cases; with several threads of the products alone."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for rows, depth, columns in PRODUCTS:
        yield partial(_product, draw, rows, depth, columns)
    if threads > 1:
        return
    for rows, depth in VECTORS:
        for columns in (1, 2, 3):
            yield partial(_vector, draw, rows, depth, columns)
    for how in CONVOLUTIONS:
        yield partial(_convolution, draw, how, "table", PATTERNS)
    for how in _zoo_layers(batch_size):
        yield partial(_convolution, draw, how, "zoo", FEW[:2])


def _row(
    group: str, operation: str, pattern: str, sparsity: float, shape: Sequence[int], **more: Any
) -> dict[str, Any]:
    return {
        "set": group,
        "operation": operation,
        "kernel": KERNEL_OF[pattern],
        "pattern": pattern,
        "sparsity": sparsity,
        "shape": list(shape),
        **more,
    }


def _packed(weight: Tensor, pattern: str, sparsity: float | None) -> tuple[type[Sparse], Tensor]:
    kernel: Any = lookup(KERNELS, KERNEL_OF[pattern], "kernel")
    return kernel, keep_largest(weight, pattern, sparsity)


def _zeros(weight: Tensor) -> float:
    return round(1 - weight.count_nonzero().item() / weight.numel(), 4)


def _product(draw: Draw, rows: int, depth: int, columns: int) -> Case:
    weight, x = draw(rows, depth), draw(depth, columns)
    image = x.reshape(1, depth, *rivals.sides(columns)).contiguous()
    transposed = x.t().contiguous()
    subjects = []
    for pattern, sparsity in PATTERNS:
        kernel, sparse = _packed(weight, pattern, sparsity)
        planes = kernel.pack(sparse.reshape(rows, depth, 1, 1), pattern)
        linear = kernel.pack(sparse, pattern)
        calls = {
            "planes": lambda k=kernel, w=planes: k.run(w, image),
            "channels_last": lambda k=kernel, w=linear: k.run(w, transposed),
        }
        others = rivals.torch_sparse(sparse, x) | rivals.scipy_sparse(sparse, x)
        row = _row("table", "spmm", pattern, _zeros(sparse), (rows, depth, columns))
        subjects.append(Subject(row, calls, others))
    name = f"{rows}x{depth}x{columns}"
    return Case(name, rivals.dense_products(weight, x), rivals.onnx_runtime(weight, x), subjects)


def _vector(draw: Draw, rows: int, depth: int, columns: int) -> Case:
    """Return few columns; ``dense_gemv`` is a dense product as fast as memory gives it."""
    weight, x = draw(rows, depth), draw(columns, depth)
    subjects = []
    for pattern, sparsity in FEW:
        kernel, sparse = _packed(weight, pattern, sparsity)
        shape = (rows, depth, columns)
        forms = {"float32": kernel.pack(sparse, pattern, few_columns=pattern != "csr")}
        if pattern == "2:4":
            forms["float16"] = kernel.pack(sparse, pattern, few_columns=True, half=True)
        for values, packed in forms.items():
            row = _row("table", "gemv", pattern, _zeros(sparse), shape, values=values)
            checked = ready(packed.arrays, kernel.name, pattern, [rows, depth])
            alone = _alone(checked.c_weight, checked.function, x, rows, checked)
            call = lambda k=kernel, w=packed: k.run(w, x)  # noqa: E731
            others = rivals.torch_sparse(sparse, x.t())
            subjects.append(Subject(row, {"linear": call}, others, alone))
    own = _alone(core.Weight(depth=depth, values=weight.data_ptr()), "dense_gemv", x, rows, weight)
    dense = rivals.dense_products(weight, x.t().contiguous())
    return Case(f"{rows}x{depth}x{columns}", dense, own, subjects)


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
    run, memory = core.call(family), (x, y, held)
    return {family: lambda: (run(weight, call), memory)}


def _convolution(
    draw: Draw,
    how: Convolution,
    group: str,
    patterns: Sequence[tuple[str, float | None]],
) -> Case:
    weight = draw(how.rows, how.channels, how.kernel, how.kernel)
    x = draw(how.batch, how.channels, *how.size)
    last = x.contiguous(memory_format=torch.channels_last)
    options: dict[str, Any] = {
        "stride": (how.stride, how.stride),
        "padding": (how.padding, how.padding),
    }
    subjects = []
    for pattern, sparsity in patterns:
        kernel, sparse = _packed(weight, pattern, sparsity)
        packed = kernel.pack(sparse, pattern)
        calls = {
            "planes": lambda k=kernel, w=packed: k.run(w, x, **options),
            "channels_last": lambda k=kernel, w=packed: k.run(w, last, **options),
        }
        row = _row(group, "conv", pattern, _zeros(sparse), how.product, conv=how.as_json())
        subjects.append(Subject(row, calls, {}))
    name = f"{how.channels}->{how.rows} {how.kernel}x{how.kernel} {how.size}"
    dense = rivals.dense_convolutions(weight, x, how)
    return Case(name, dense, rivals.prepacked_convolution(weight, x, how), subjects)


def _zoo_layers(batch_size: int) -> list[Convolution]:
    """Return every different convolution and linear layer of the zoo's networks, groups apart."""
    from amc.task import load_task

    found: dict[Convolution, None] = {}
    for name in ZOO:
        task = load_task(name)

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                size = (inputs[0].shape[2], inputs[0].shape[3])
                kernel, stride, padding = (
                    int(v[0]) if isinstance(v, tuple) else int(v)
                    for v in (layer.kernel_size, layer.stride, layer.padding)
                )
                shape = (layer.out_channels, layer.in_channels, size, kernel, stride, padding)
                found[Convolution(*shape, batch_size)] = None
            elif isinstance(layer, nn.Linear):
                shape = (layer.out_features, layer.in_features, (1, 1), 1, 1, 0)
                found[Convolution(*shape, batch_size)] = None

        hooks = [layer.register_forward_hook(note) for layer in task.network.modules()]
        with torch.inference_mode():
            task.network.eval()(*(x[:1] for x in task.inputs))
        for hook in hooks:
            hook.remove()
    return list(found)
