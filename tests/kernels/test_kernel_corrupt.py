"""Wrong shapes, types and corrupt packed weights raise; nothing is read out of bounds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from amc.errors import InputError
from amc.kernels import core
from amc.kernels.modules import SparseConv2d, SparseLinear, layer_from_state
from amc.kernels.packed import FIELDS, Packed
from tests.kernels.oracle import (
    BACKENDS,
    COMPILED,
    EXAMPLES,
    PATTERNS,
    drawn,
    kernel_of,
    sparse_weight,
)


def packed_weight(pattern: str, few_columns: bool = False) -> Packed:
    weight = sparse_weight(pattern, (21, 150), 0.6)
    return kernel_of(pattern).pack(weight, pattern, few_columns=few_columns)


def changed(packed: Packed, field: str, change: Callable[[Tensor], Any]) -> Packed:
    tensors = {name: tensor.clone() for name, tensor in packed.tensors.items()}
    tensors[field] = change(tensors[field])
    return Packed(packed.kernel, packed.pattern, packed.shape, tensors)


def put(at: int, value: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.numpy()[at] = value
        return tensor

    return change


FORMS = [(pattern, few) for pattern in PATTERNS for few in (False, True)]
ANY = {
    "short": lambda t: t[:-1],
    "long": lambda t: torch.cat([t, t[:1]]) if len(t) else torch.zeros(1, dtype=t.dtype),
    "absent": lambda t: None,
    "no tensor": lambda t: t.tolist(),
    "two-dimensional": lambda t: t[None],
    "other type": lambda t: t.to(torch.float64),
    "meta": lambda t: t.to("meta"),
    "strided": lambda t: torch.zeros(2 * len(t) + 2, dtype=t.dtype)[::2][: len(t)],
}


@pytest.mark.parametrize(("pattern", "few"), FORMS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("change", ANY)
def test_damage_of_any_field(pattern: str, few: bool, field: str, change: str) -> None:
    packed = packed_weight(pattern, few)
    if not len(packed.tensors[field]) and change in ("short", "strided"):
        return  # an empty tensor cannot be shorter
    broken = changed(packed, field, ANY[change])
    with pytest.raises(InputError, match=f"`{field}` must"):
        kernel_of(pattern).check(broken)


SLOTTED = [("csr", False), ("csc", False), ("csc", True), ("4x1", False), ("4x1", True)]
DAMAGE: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "first start": ("starts", put(0, 1), "begin with 0"),
    "falling start": ("starts", put(2, 0), "never fall"),
    "huge start": ("starts", put(3, 2**32 - 1), "never fall"),
    "last start": ("starts", put(-1, 2**32 - 1), "`indices` must have"),
    "index": ("indices", put(5, 65535), "be below"),
    "order": ("indices", lambda t: t.flip(0).roll(16), "(ascend|be below)"),
    "spare index": ("indices", put(-1, 7), "end with 16 zeros"),
    "spare value": ("values", put(-1, 7), "end with 16 zeros"),
}


@pytest.mark.parametrize(("pattern", "few"), SLOTTED)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_slots(pattern: str, few: bool, damage: str) -> None:
    field, change, message = DAMAGE[damage]
    if damage == "order":
        indices = packed_weight(pattern, few).tensors["indices"]
        used = indices[:-16].numpy()[::-1].copy()

        def change(tensor: Tensor) -> Tensor:
            return torch.cat([torch.from_numpy(used), tensor[-16:]])

    broken = changed(packed_weight(pattern, few), field, change)
    with pytest.raises(InputError, match=message):
        kernel_of(pattern).check(broken)


@pytest.mark.parametrize(("pattern", "few"), FORMS)
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [-1, 0, 3, 2**20, 2**62])
def test_damage_of_the_layout(pattern: str, few: bool, position: int, value: int) -> None:
    packed = packed_weight(pattern, few)
    if packed.layout[position] == value:
        return
    broken = changed(packed, "layout", put(position, value))
    with pytest.raises(InputError, match="must"):
        kernel_of(pattern).check(broken)


@pytest.mark.parametrize(
    "shape", [(21, 149), (20, 150), (0, 150), (21,), (21, 150, 3), (2**40, 2**40)]
)
@pytest.mark.parametrize(("pattern", "few"), FORMS)
def test_another_shape(pattern: str, few: bool, shape: tuple[int, ...]) -> None:
    packed = packed_weight(pattern, few)
    broken = Packed(packed.kernel, pattern, shape, packed.tensors)
    if shape in ((21, 149), (20, 150)) and pattern in ("2:4", "1:4", "4x1", "csc"):
        # The same number of padded channels or rows: legal unless something lies beyond.
        try:
            kernel_of(pattern).check(broken)
        except InputError:
            return
        assert kernel_of(pattern).unpack(broken).shape == shape
        return
    with pytest.raises(InputError, match="must"):
        kernel_of(pattern).check(broken)


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize(("pattern", "few"), FORMS)
def test_random_damage_raises_or_stays_inside(pattern: str, few: bool, data: st.DataObject) -> None:
    packed = packed_weight(pattern, few)
    fields = [field for field in FIELDS[1:] if len(packed.tensors[field])]
    field = data.draw(st.sampled_from(fields))
    numbers = packed.tensors[field].numpy()
    at = data.draw(st.integers(0, len(numbers) - 1))
    limits = np.iinfo(numbers.dtype)
    near = st.integers(max(int(limits.min), -3), 300)
    value = data.draw(near | st.integers(int(limits.min), int(limits.max)))
    broken = changed(packed, field, put(at, value))
    x = drawn(2 if few else 5, 150)
    try:
        y = kernel_of(pattern).run(broken, x)
    except InputError:
        return
    assert y.shape == (len(x), 21)
    assert bool(y.isfinite().all())


@pytest.mark.parametrize("pattern", ["csr", "csc", "4x1"])
def test_a_weight_that_is_changed_after_its_check(pattern: str) -> None:
    kernel, x = kernel_of(pattern), drawn(5, 150)
    packed = packed_weight(pattern)
    y = kernel.run(packed, x)
    # numpy's view of the memory tells torch of no change: the copy that was checked goes on.
    hidden = packed.tensors["indices"].numpy()
    kept = hidden.copy()
    hidden[:] = 65535
    assert torch.equal(kernel.run(packed, x), y)
    hidden[:] = kept
    packed.tensors["indices"][:-16].fill_(65535)
    with pytest.raises(InputError, match="`indices` must be below"):
        kernel.run(packed, x)
    packed.tensors["indices"].copy_(torch.from_numpy(kept))
    assert torch.equal(kernel.run(packed, x), y)
    packed.tensors["values"].mul_(2)
    assert torch.allclose(kernel.run(packed, x), 2 * y)


@pytest.mark.parametrize("checked", [False, *(True for _ in COMPILED[:1])])
def test_memory_that_was_taken_away(checked: bool) -> None:
    kernel, x = kernel_of("2:4"), drawn(40, 150)  # too many columns for another form
    packed = changed(packed_weight("2:4"), "values", torch.clone)
    if checked:  # by the compiled kernels: numpy, which the others use, makes torch keep memory
        kernel.run(packed, x)
    packed.tensors["values"].untyped_storage().resize_(0)
    with pytest.raises(InputError, match="`values` must have memory"):
        kernel.run(packed, x)


@pytest.mark.parametrize(("pattern", "few"), FORMS)
def test_modules_refuse_a_corrupt_state(pattern: str, few: bool) -> None:
    layer = SparseLinear(packed_weight(pattern, few), drawn(21))
    state = layer.state_dict()
    for field in FIELDS[:3]:
        if len(state[field]):
            broken = {**state, field: state[field][:-1]}
            with pytest.raises(InputError, match=f"`{field}` must have"):
                layer.load_state_dict(broken)
            with pytest.raises(InputError, match=f"`{field}` must have"):
                layer_from_state(broken)
    with pytest.raises(InputError, match=r"`bias` must be float32 \[21\]"):
        layer.load_state_dict({**state, "bias": drawn(20)})
    layer.load_state_dict(state)
    other = copy.deepcopy(layer)
    other.settings = torch.tensor(list(b'{"kernel": 1}'), dtype=torch.uint8)
    with pytest.raises(InputError, match="`settings` must be those of the layer"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="`settings` must be the JSON"):
        layer_from_state(other.state_dict())
    with pytest.raises(InputError, match=r"must have values; it has not"):
        layer_from_state({k: v for k, v in state.items() if k != "values"})
    if pattern != "2:4":
        layer.half()
        with pytest.raises(InputError, match=r"`values` must .*not converted by `.half\(\)`"):
            layer(drawn(2, 150))


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_inputs(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "torch":
        monkeypatch.setattr(core, "library", lambda: None)
    kernel = kernel_of("csr")
    linear = kernel.pack(drawn(6, 8))
    conv = kernel.pack(drawn(6, 8, 3, 3))
    with pytest.raises(InputError, match=r"takes x of shape \[..., 8\], but got \[2, 7\]"):
        kernel.run(linear, drawn(2, 7))
    with pytest.raises(InputError, match="float32 activations, but got torch.float64; use x.to"):
        kernel.run(linear, drawn(2, 8).double())
    with pytest.raises(InputError, match=r"`bias` must be float32 \[6\]"):
        kernel.run(linear, drawn(2, 8), drawn(7))
    with pytest.raises(InputError, match=r"`bias` must be float32 \[6\]"):
        kernel.run(linear, drawn(2, 8), drawn(6).double())
    with pytest.raises(InputError, match="a linear layer has no stride"):
        kernel.run(linear, drawn(2, 8), stride=(2, 2))
    with pytest.raises(
        InputError, match=r"takes x of shape \[N, 8, H, W\], but got \[1, 7, 5, 5\]"
    ):
        kernel.run(conv, drawn(1, 7, 5, 5))
    with pytest.raises(InputError, match="must fit into the padded image"):
        kernel.run(conv, drawn(1, 8, 2, 5))
    for options in ({"stride": (0, 1)}, {"padding": (-1, 0)}, {"dilation": (1,)}):
        with pytest.raises(InputError, match=f"`{next(iter(options))}` must be two integers"):
            kernel.run(conv, drawn(1, 8, 5, 5), **options)
    with pytest.raises(InputError, match="`kernel` must be 'nm'"):
        kernel_of("2:4").run(linear, drawn(2, 8))


def test_weights_that_cannot_be_packed() -> None:
    nm, csr = kernel_of("2:4"), kernel_of("csr")
    weight = sparse_weight("2:4", (6, 10, 3, 3), 0.0)
    weight[3, 5:8, 1, 2] = 1
    message = r"allows 2 non-zeros .* got [34] at output row 3, input channels 4 to 7, .*\(1, 2\)"
    with pytest.raises(InputError, match=message):
        nm.pack(weight)
    with pytest.raises(InputError, match="must be float32"):
        csr.pack(drawn(4, 4).double())
    for shape in ((4,), (4, 4, 3), (0, 4)):
        with pytest.raises(InputError, match="but got shape"):
            csr.pack(torch.zeros(shape))
    with pytest.raises(InputError, match="is for linear weights"):
        nm.pack(sparse_weight("2:4", (4, 4, 1, 1), 0.0), few_columns=True)
    with pytest.raises(InputError, match="half=True needs few_columns=True"):
        nm.pack(sparse_weight("2:4", (4, 4), 0.0), half=True)
    with pytest.raises(InputError, match="the largest is 70000; use half=False"):
        nm.pack(torch.tensor([[70000.0, 0, 0, 0]]), few_columns=True, half=True)
    with pytest.raises(InputError, match="no form with float16 values"):
        csr.pack(drawn(4, 4), few_columns=True, half=True)
    with pytest.raises(InputError, match=r"takes a weight \[M, C, kh, kw\]"):
        SparseConv2d(csr.pack(drawn(4, 4)))
    with pytest.raises(InputError, match=r"takes a weight \[M, K\]"):
        SparseLinear(csr.pack(drawn(4, 4, 1, 1)))


@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("size", [65537, 2**30, 2**63 - 1, 2**64])
def test_options_that_would_overflow_are_refused(option: str, size: int) -> None:
    kernel = kernel_of("csr")
    for taps in (1, 3):
        packed = kernel.pack(sparse_weight("csr", (8, 4, taps, taps), 0.5))
        with pytest.raises(InputError, match=f"`{option}` must be two integers"):
            kernel.run(packed, drawn(1, 4, 5, 5), **{option: (size, size)})  # type: ignore[arg-type]
    layer = SparseConv2d(packed)
    state = layer.state_dict()
    about = json.loads(bytes(state["settings"].tolist())) | {option: [size, size]}
    state["settings"] = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
    refusal = f"`{option}` must be one or two integers|{option}.0 {size} does not fit 64 bits"
    with pytest.raises(InputError, match=refusal):
        layer_from_state(state)


def test_csc_with_more_rows_than_its_few_columns_form_holds_still_runs() -> None:
    weight = torch.zeros(65540, 3)
    weight[65539, 1] = 2.0
    packed = kernel_of("csc").pack(weight)
    x = drawn(1, 3)
    torch.testing.assert_close(kernel_of("csc").run(packed, x)[0, 65539], 2 * x[0, 1])


def test_a_negated_view_is_read_as_what_it_shows() -> None:
    kernel, weight = kernel_of("csr"), sparse_weight("csr", (6, 10), 0.5)
    x, bias = drawn(4, 10), drawn(6)
    packed = kernel.pack(weight)
    y = kernel.run(packed, torch._neg_view(x), torch._neg_view(bias))
    torch.testing.assert_close(y, torch.nn.functional.linear(-x, weight, -bias))
