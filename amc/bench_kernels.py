"""``amc bench kernels``: every kernel against dense torch and the sparse libraries, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc import bench_rivals as rivals
from amc.bench_rivals import Call, Convolution
from amc.errors import InputError
from amc.kernels import KERNELS, core
from amc.kernels.calls import ready
from amc.kernels.family import Sparse
from amc.kernels.patterns import KERNEL_OF, keep_largest
from amc.registry import lookup
from amc.reporting import Handle, Reporter

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
SHORTEST_S = 2e-4  # of one turn: calls that take less are repeated within it
TURN_S, LEAST_ROUNDS = 0.02, 5  # a call that takes longer than a turn gets the fewest rounds


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


def kernels(
    reporter: Reporter, rounds: int = 25, batch_size: int = 1, threads: int = 1
) -> list[dict[str, Any]]:
    """Return one object a kernel, pattern and shape, as README's table of fields describes.

    Everything of one shape takes turns in one run, in ``rounds`` rounds after a warm-up; seconds
    are medians over rounds. All run in both memory layouts, dense and sparse; the faster counts.
    ``batch_size`` is that of the layers of the zoo's networks.
    """
    if core.library() is None:
        reporter.message(
            f"no compiled kernels, the torch backend is timed: {core.why_no_library()}"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        makers = list(_cases(batch_size, threads))
        rows = []
        with reporter.task("timing kernels", len(makers)) as bar, torch.inference_mode():
            for make in makers:
                rows += _timed(make(), rounds, threads, bar)
        return rows
    finally:
        torch.set_num_threads(before)


def _cases(batch_size: int, threads: int) -> Iterator[Callable[[], Case]]:
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


def _timed(case: Case, rounds: int, threads: int, bar: Handle) -> list[dict[str, Any]]:
    calls: dict[Any, Call] = {("dense", k): call for k, call in case.dense.items()}
    calls |= {("beside", k): call for k, call in case.beside.items()}
    for at, subject in enumerate(case.subjects):
        every = (*subject.calls.items(), *subject.rivals.items(), *subject.alone.items())
        calls |= {(at, k): call for k, call in every}
    peaks: list[float] = []
    if core.library() is not None:
        calls["peak"] = lambda: peaks.append(core.peak_flops())
    seconds = interleaved(calls, rounds)
    peak = float(np.median(peaks)) * threads if peaks else None
    fastest = min((seconds["dense", k], k) for k in case.dense)
    rows = []
    for at, subject in enumerate(case.subjects):
        own, layout = min((seconds[at, k], k) for k in subject.calls)
        torch_own = [seconds[at, k] for k in subject.rivals if k.startswith("torch_")]
        stored = 1 - subject.row["sparsity"]
        flops = 2 * float(np.prod(subject.row["shape"])) * stored
        row = subject.row | {
            "threads": threads,
            "backend": core.backend(),
            "layout": layout,
            "seconds": own,
            "dense_seconds": fastest[0],
            "dense_form": fastest[1],
            "speedup_vs_dense": fastest[0] / own,
            "speedup_vs_torch_sparse": min(torch_own) / own if torch_own else None,
            "fraction_of_peak": flops / own / peak if peak else None,
        }
        for k in subject.rivals:
            row[f"speedup_vs_{k}"] = seconds[at, k] / own
        alone = min((seconds[at, k] for k in subject.alone), default=own)
        for k in case.beside:
            row[f"speedup_vs_{k}"] = seconds["beside", k] / (alone if k == "dense_gemv" else own)
        if subject.alone:
            row["kernel_seconds"] = alone
        rows.append(row)
    bar.advance(1, case.name)
    return rows


def interleaved(calls: Mapping[Any, Call], rounds: int) -> dict[Any, float]:
    """Return the median seconds of each call over ``rounds`` turns, everything taking turns.

    A turn is one call that warms up and, where a call takes under 0.2 ms, as many as fill that;
    a call that takes over 20 ms gets 5 turns.
    """
    once = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        once[name] = time.perf_counter() - begin
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            if once[name] > TURN_S and turn >= LEAST_ROUNDS:
                continue
            repeats = max(1, min(20, ceil(SHORTEST_S / once[name])))
            call()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            samples[name].append((time.perf_counter() - begin) / repeats)
    return {name: float(np.median(taken)) for name, taken in samples.items()}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return geometric means over shapes, a row for each operation, pattern and sparsity."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        asked = row["sparsity"] if row["pattern"] in KEEP_OWN else round(row["sparsity"], 2)
        key = (row["set"], row["operation"], row["pattern"], asked, row.get("values", "float32"))
        groups.setdefault(key, []).append(row)
    return [
        {
            "set": key[0],
            "operation": key[1],
            "pattern": key[2],
            "sparsity": key[3],
            "values": key[4],
            "shapes": len(group),
            **{
                name: _mean([row.get(name) for row in group])
                for name in (
                    "speedup_vs_dense",
                    "speedup_vs_torch_sparse",
                    "speedup_vs_scipy",
                    "speedup_vs_onnx_runtime",
                    "speedup_vs_dense_gemv",
                    "speedup_vs_prepacked",
                    "fraction_of_peak",
                )
            },
            "least_vs_dense": min(row["speedup_vs_dense"] for row in group),
        }
        for key, group in groups.items()
    ]


KEEP_OWN = ("2:4", "1:4")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else None


def check_rounds(rounds: int) -> None:
    """Raise ``InputError`` for a number of rounds that gives no median."""
    if rounds < LEAST_ROUNDS:
        raise InputError(f"rounds must be at least {LEAST_ROUNDS}, but got {rounds}")
