"""What every sparse kernel in the registry owes, and which backends were executed at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amc.errors import InputError
from amc.kernels import KERNELS, core
from amc.kernels.family import Sparse
from amc.kernels.packed import Packed
from amc.kernels.patterns import KEEP, KERNEL_OF, PATTERNS, keep_largest
from amc.latency.ops import Operand, OpTemplate, Width
from amc.registry import lookup
from tests.kernels.oracle import (
    ISAS,
    Layer,
    assert_close,
    drawn,
    kernel_of,
    running,
    sparse_weight,
    why_not,
)

SPARSE = [name for name in KERNELS if name != "dense"]


@pytest.mark.parametrize("isa", ISAS)
def test_an_instruction_set_is_executed(isa: str) -> None:
    reason = why_not(isa)
    if reason:
        pytest.skip(f"never executed here: {reason}")
    weight, x = sparse_weight("2:4", (20, 24), 0.0), drawn(9, 24)
    with running(isa):
        y = kernel_of("2:4").run(kernel_of("2:4").pack(weight), x)
    assert_close(y, weight, x, None, Layer())


@pytest.mark.parametrize("name", SPARSE)
def test_a_kernel_packs_and_unpacks_its_patterns(name: str) -> None:
    kernel = lookup(KERNELS, name, "kernel")
    assert issubclass(kernel, Sparse)
    assert kernel.name == name
    assert kernel.backend() == core.backend()
    assert kernel.patterns
    for pattern in kernel.patterns:
        assert KERNEL_OF[pattern] == name
        for shape in ((9, 14), (5, 6, 3, 2)):
            weight = sparse_weight(pattern, shape, 0.7)
            packed = kernel.pack(weight, pattern)
            assert (packed.kernel, packed.pattern, packed.shape) == (name, pattern, shape)
            kernel.check(packed)
            assert torch.equal(kernel.unpack(packed), weight)
            assert packed.weight_bytes < 8 * weight.numel() + 1000
    with pytest.raises(InputError, match="runs patterns .* but got 'no such'"):
        kernel.pack(drawn(4, 4), "no such")


def template(pattern: str, conv: bool, form: int = 0) -> OpTemplate:
    """The recorded form of a layer whose two widths, and density, are free."""
    tail = (3, 3) if conv else ()
    x_shape = (2, Width(0), 6, 5) if conv else (7, Width(0))
    order = (0, 2, 3, 1) if conv else (0, 1)
    x = Operand(x_shape, order, "float32", is_weight=False)
    bias = Operand((Width(1),), (0,), "float32", is_weight=True)
    # As recorded: the length of the last of the packed arrays is the form.
    weight = tuple(
        Operand((form,), (0,), kind, is_weight=True)
        for kind in ("float32", "uint16", "uint32", "int64")
    )
    axes = ("c_in", "c_out") if pattern in KEEP else ("c_in", "c_out", "density")
    args = (x, weight, KERNEL_OF[pattern], pattern, (Width(1), Width(0), *tail), bias)
    options: tuple[object, ...] = ((2, 1), (1, 1), (1, 1), False) if conv else (True,)
    op = "amc.sparse_conv2d.default" if conv else "amc.sparse_linear.default"
    return OpTemplate(op, args + options, (), axes, KERNEL_OF[pattern])


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_kernel_prepares_recorded_operations(pattern: str, conv: bool) -> None:
    kernel = kernel_of(pattern)
    dims = (10, 12) if pattern in KEEP else (10, 12, 250)
    before = torch.get_rng_state()
    call, activations = kernel.prepare(template(pattern, conv), dims)
    (x,) = activations
    y = call()
    assert torch.equal(torch.get_rng_state(), before)
    if conv:
        assert x.shape == (2, 10, 6, 5)
        assert y.shape == (2, 12, 3, 5)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert y.is_contiguous(memory_format=torch.channels_last)
    else:
        assert (x.shape, y.shape) == ((7, 10), (7, 12))
        assert bool((y >= 0).all())
    assert torch.equal(call(), y)
    x.zero_()
    assert not torch.equal(call(), y)  # what the call reads is what was handed out


@pytest.mark.parametrize(("form", "kind"), [(1, torch.float32), (2, torch.float16)])
def test_the_recorded_form_is_prepared(
    form: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = kernel_of("2:4").check

    def check(packed: Packed) -> list[int]:
        seen.append((packed.form, packed.tensors["values"].dtype))
        return plain(packed)

    monkeypatch.setattr(kernel_of("2:4"), "check", staticmethod(check))
    recorded = template("2:4", conv=False, form=form)
    x = Operand((2, Width(0)), (0, 1), "float32", is_weight=False)
    call, _ = kernel_of("2:4").prepare(replace(recorded, args=(x, *recorded.args[1:])), (8, 12))
    assert call().shape == (2, 12)
    assert seen == [(form, kind)]


def test_other_operations_are_refused() -> None:
    relu = OpTemplate("aten.relu.default", (Operand((3,), (0,), "float32", False),), (), ())
    with pytest.raises(InputError, match="runs amc.sparse_linear.* but got aten.relu.default"):
        kernel_of("csr").prepare(relu, ())
    with pytest.raises(InputError, match="cannot run an operation of kernel 'nm'"):
        kernel_of("csr").prepare(template("2:4", conv=False), (4, 4))


@pytest.mark.parametrize("pattern", ["csr", "csc", "4x1"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.95, 1.0])
def test_exactly_the_smallest_are_dropped(pattern: str, sparsity: float) -> None:
    weight = drawn(20, 10, 3, 3)
    kept = keep_largest(weight, pattern, sparsity)
    unit = 4 if pattern == "4x1" else 1
    assert int((kept == 0).sum()) == unit * round(sparsity * weight.numel() / unit)
    if pattern != "4x1" and 0 < sparsity < 1:
        assert weight[kept == 0].abs().max() <= weight[kept != 0].abs().min()
    assert torch.equal(kept[kept != 0], weight[kept != 0])


@pytest.mark.parametrize(("pattern", "keep"), KEEP.items())
def test_the_largest_of_four_channels_stay(pattern: str, keep: int) -> None:
    weight = drawn(6, 8, 3, 3)
    groups = keep_largest(weight, pattern).reshape(6, 2, 4, 3, 3)
    assert torch.equal((groups != 0).sum(dim=2), torch.full((6, 2, 3, 3), keep))
    sums = weight.abs().reshape(groups.shape).topk(keep, dim=2).values.sum(dim=2)
    assert torch.allclose(groups.abs().sum(dim=2), sums)


def test_sparsities_that_a_pattern_cannot_have() -> None:
    weight = drawn(4, 4)
    with pytest.raises(InputError, match=r"pattern '2:4' must be 0.5, but got 0.6; choose 'csr'"):
        keep_largest(weight, "2:4", 0.6)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], but got None"):
        keep_largest(weight, "csr")
    with pytest.raises(InputError, match="pattern 'x' is unknown"):
        keep_largest(weight, "x", 0.5)
