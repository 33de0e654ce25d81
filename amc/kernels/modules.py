"""Layers with packed weights, in place of ``nn.Linear`` and ``nn.Conv2d``, for inference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amc.errors import InputError
from amc.kernels import KERNELS, ops
from amc.kernels.family import Sparse
from amc.kernels.geometry import MOST_OPTION, check_bias
from amc.kernels.packed import FIELDS, Packed
from amc.kernels.patterns import first_violation
from amc.registry import lookup
from amc.strict_json import parse_json

SETTINGS_VERSION = 1


class SparseLayer(nn.Module):
    """What both layers share: buffers ``values, indices, starts, layout``, ``bias``, ``settings``.

    ``settings`` is JSON as bytes: with it a layer can be made from its state alone
    (``layer_from_state``). Loading a state checks it, and may change the number of non-zeros.
    """

    values: Tensor
    indices: Tensor
    starts: Tensor
    layout: Tensor
    settings: Tensor
    bias: Tensor | None

    def __init__(self, packed: Packed, bias: Tensor | None, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.kernel, self.pattern = packed.kernel, packed.pattern
        self.shape = list(packed.shape)
        about = {"schema_version": SETTINGS_VERSION, "kernel": packed.kernel}
        about |= {"pattern": packed.pattern, "shape": self.shape, **options}
        text = json.dumps(about).encode()
        self._install(packed, bias)
        self.register_buffer("settings", torch.tensor(list(text), dtype=torch.uint8))

    @property
    def packed(self) -> Packed:
        """The packed weight."""
        tensors = {field: getattr(self, field) for field in FIELDS}
        return Packed(self.kernel, self.pattern, tuple(self.shape), tensors)

    def dense_weight(self) -> Tensor:
        """Return the dense weight, ``[M, K]`` or ``[M, C, kh, kw]``."""
        return _sparse_kernel(self.kernel).unpack(self.packed)

    def _install(self, packed: Packed, bias: Tensor | None) -> None:
        """Make checked tensors the layer's buffers."""
        _sparse_kernel(packed.kernel).check(packed)
        if bias is not None:
            check_bias(bias, packed.shape[0])
            bias = bias.detach().clone().contiguous()
        for field in FIELDS:
            self.register_buffer(field, packed.tensors[field])
        self.register_buffer("bias", bias)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Not torch's way, which would copy into buffers of the old lengths and check nothing.
        names = [*FIELDS, "settings", *([] if self.bias is None else ["bias"])]
        missing = [prefix + name for name in names if prefix + name not in state_dict]
        missing_keys.extend(missing)
        own = {prefix + name for name in names}
        unexpected_keys.extend(
            key for key in state_dict if key.startswith(prefix) and key not in own
        )
        if missing:
            return
        if not torch.equal(state_dict[prefix + "settings"].cpu(), self.settings.cpu()):
            raise InputError(
                f"`{prefix}settings` must be those of the layer that is loaded, {self._text()}, "
                f"but got {_text_of(state_dict[prefix + 'settings'])}; make the layer with "
                "amc.kernels.modules.layer_from_state"
            )
        tensors = {field: state_dict[prefix + field].detach().clone() for field in FIELDS}
        packed = Packed(self.kernel, self.pattern, tuple(self.shape), tensors)
        self._install(packed, None if self.bias is None else state_dict[prefix + "bias"])

    def _text(self) -> str:
        return _text_of(self.settings)

    def extra_repr(self) -> str:
        """Return what is shown of the layer."""
        about = json.loads(self._text())
        shown = {key: value for key, value in about.items() if key != "schema_version"}
        text = ", ".join(f"{key}={value}" for key, value in shown.items())
        return f"{text}, bias={self.bias is not None}"


class SparseLinear(SparseLayer):
    """``relu(x W^T + bias)`` for ``x`` ``[..., K]``; ``relu`` only where asked for.

    For few columns (rows of ``x``) ``nm`` and ``csc`` weights are packed once more, at the first
    such call; that form is kept while the layer lives, and never saved.
    """

    def __init__(self, packed: Packed, bias: Tensor | None = None, relu: bool = False) -> None:
        if len(packed.shape) != 2:
            raise InputError(
                f"SparseLinear takes a weight [M, K], but got {list(packed.shape)}; "
                "use SparseConv2d"
            )
        super().__init__(packed, bias, {"relu": relu})
        self.out_features, self.in_features = packed.shape
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., M]``."""
        own = self._buffers  # attributes of a module take longer, as long as a small layer
        weight: list[Any] = [own["values"], own["indices"], own["starts"], own["layout"]]
        y: Tensor = ops.sparse_linear(
            x, weight, self.kernel, self.pattern, self.shape, own["bias"], self.relu
        )
        return y


class SparseConv2d(SparseLayer):
    """A 2-d convolution of ``x`` ``[N, C, H, W]``, with zero padding and one group."""

    def __init__(
        self,
        packed: Packed,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        relu: bool = False,
    ) -> None:
        if len(packed.shape) != 4:
            raise InputError(
                f"SparseConv2d takes a weight [M, C, kh, kw], but got {list(packed.shape)}; "
                "use SparseLinear"
            )
        pairs = {
            "stride": pair("stride", stride, 1),
            "padding": pair("padding", padding, 0),
            "dilation": pair("dilation", dilation, 1),
        }
        super().__init__(packed, bias, {"relu": relu, **pairs})
        self.out_channels, self.in_channels = packed.shape[:2]
        self.kernel_size = packed.shape[2:]
        self.stride, self.padding, self.dilation = pairs.values()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, M, H', W']`` in the memory format of ``x``."""
        own = self._buffers  # as in SparseLinear
        weight: list[Any] = [own["values"], own["indices"], own["starts"], own["layout"]]
        y: Tensor = ops.sparse_conv2d(
            x,
            weight,
            self.kernel,
            self.pattern,
            self.shape,
            own["bias"],
            self.stride,
            self.padding,
            self.dilation,
            self.relu,
        )
        return y


def sparse_module(
    layer: nn.Module, pattern: str, kernel: str, relu: bool = False
) -> SparseLinear | SparseConv2d:
    """Return a layer that computes what ``layer`` does, and a ReLU behind it where asked for.

    Raises ``InputError`` for layers other than ``nn.Linear`` and ``nn.Conv2d``, for groups, for
    paddings that are not numbers of zeros, and where the weight has not the pattern.
    """
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise InputError(
            f"sparse layers replace nn.Linear and nn.Conv2d, but got {type(layer).__name__}; "
            "leave it dense"
        )
    family = _sparse_kernel(kernel)
    weight = layer.weight.detach()
    violation = first_violation(weight, family.known_pattern(pattern))
    if violation:
        raise InputError(violation)
    bias = None if layer.bias is None else layer.bias.detach()
    if isinstance(layer, nn.Linear):
        return SparseLinear(family.pack(weight, pattern), bias, relu)
    if layer.groups != 1:
        raise InputError(
            f"a sparse convolution must have groups=1, but got {layer.groups}; leave it dense"
        )
    if layer.padding_mode != "zeros":
        raise InputError(
            "a sparse convolution must have padding_mode='zeros', but got "
            f"{layer.padding_mode!r}; leave it dense, or pad with torch.nn.functional.pad before it"
        )
    return SparseConv2d(
        family.pack(weight, pattern),
        bias,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        relu=relu,
    )


def layer_from_state(state: Mapping[str, Tensor], prefix: str = "") -> SparseLinear | SparseConv2d:
    """Return the layer whose ``state_dict`` is under ``prefix`` in ``state``.

    Raises ``InputError`` where something is missing or corrupt.
    """
    names = [*FIELDS, "settings"]
    missing = [prefix + name for name in names if prefix + name not in state]
    if missing:
        raise InputError(f"the state of a sparse layer must have {', '.join(missing)}; it has not")
    text = ""
    try:
        text = _text_of(state[prefix + "settings"])
        about = parse_json(text.encode(), "it")
        version, kernel, pattern = (about.pop(k) for k in ("schema_version", "kernel", "pattern"))
        shape = tuple(about.pop("shape"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"`{prefix}settings` must be the JSON of a sparse layer, but got {text[:200]!r} "
            f"({error!r}); load an undamaged file"
        ) from error
    if version != SETTINGS_VERSION:
        raise InputError(
            f"`{prefix}settings` must have schema_version {SETTINGS_VERSION}, but got {version}; "
            "use the version of amc that wrote it"
        )
    tensors = {field: state[prefix + field].detach().clone() for field in FIELDS}
    packed = Packed(kernel, pattern, shape, tensors)
    _sparse_kernel(kernel).check(packed)
    known = {"relu"} if len(shape) == 2 else {"relu", "stride", "padding", "dilation"}
    if set(about) != known or not isinstance(about["relu"], bool):
        raise InputError(f"`{prefix}settings` must also hold {sorted(known)}, but got {about}")
    bias = state.get(prefix + "bias")
    if len(shape) == 2:
        return SparseLinear(packed, bias, **about)
    return SparseConv2d(packed, bias, **about)


def pair(name: str, value: int | Sequence[int] | str, least: int) -> list[int]:
    """Return an option of a convolution as two integers."""
    if isinstance(value, str):
        raise InputError(
            f"`{name}` of a sparse convolution must be integers, but got {value!r}; "
            "give the number of pixels on each side"
        )
    both = [value, value] if isinstance(value, int) else list(value)
    if len(both) != 2 or not all(type(n) is int and least <= n <= MOST_OPTION for n in both):
        raise InputError(
            f"`{name}` must be one or two integers >= {least} and at most {MOST_OPTION}, "
            f"but got {value!r}"
        )
    return both


def _sparse_kernel(name: str) -> type[Sparse]:
    kernel: Any = lookup(KERNELS, name, "kernel")
    if not issubclass(kernel, Sparse):
        sparse = ", ".join(known for known in KERNELS if known != "dense")
        raise InputError(f"kernel {name!r} has no sparse layers; known: {sparse}")
    family: type[Sparse] = kernel
    return family


def _text_of(settings: Tensor) -> str:
    return bytes(settings.detach().cpu().to(torch.uint8).flatten().tolist()).decode(
        errors="replace"
    )
