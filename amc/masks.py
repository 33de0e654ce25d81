"""Masks of ``torch.nn.utils.prune``: networks that others pruned as plans, and plans as masks.

A layer that was pruned so has ``weight_orig`` and ``weight_mask`` in its state, and their product
is its weight.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from amc.errors import InputError
from amc.kernels.patterns import KEEP, first_violation
from amc.printable import printable, shown
from amc.sites import THOUSAND
from amc.sparsify import LayerPattern, can_be_sparse

ORIGINAL, MASK = "weight_orig", "weight_mask"
FEW = 0.05  # of a pattern's weights that may be zero beside those it asks for


def with_masks(network: nn.Module, layers: Mapping[str, LayerPattern]) -> nn.Module:
    """Give the named layers, in place, masks of ``torch.nn.utils.prune`` where they have zeros."""
    for name in layers:
        layer = network.get_submodule(name)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        mask = (weight.detach() != 0).to(weight.dtype)
        torch_prune.custom_from_mask(layer, "weight", mask)
    return network


def read_masked(path: Path) -> dict[str, Tensor]:
    """Return the state of a masked network: ``.safetensors``, or what ``torch.save`` wrote.

    Raises ``InputError`` for a file without masks. Of ``torch.save`` tensors alone are read.
    """
    if not path.is_file():
        raise InputError(f"state {str(path)!r} is not a file; check the path")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            _check_uncompressed(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old formats
                state = torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, MemoryError) as error:
        raise InputError(
            f"state {str(path)!r} is not readable: {_first_line(error)}; save "
            "`network.state_dict()` again"
        ) from None
    except Exception as error:  # the unpickler raises types of its own
        raise InputError(
            f"state {str(path)!r} holds more than tensors by name ({_first_line(error)}); save "
            "`network.state_dict()` alone"
        ) from None
    if not isinstance(state, dict) or not all(map(_is_plain, state.items())):
        raise InputError(
            f"state {str(path)!r} must hold plain tensors by name, as a state_dict does; save "
            "`network.state_dict()`"
        )
    if not any(name.endswith(f".{MASK}") for name in state):
        raise InputError(
            f"state {str(path)!r} has no mask (NAME.{MASK}); save it before "
            "torch.nn.utils.prune.remove"
        )
    return state


def _check_uncompressed(path: Path) -> None:
    """Raise ``ValueError`` for an archive that would grow when it is read: torch writes none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, as torch.save never does")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return printable(lines[0], 300)


def _is_plain(item: tuple[Any, Any]) -> bool:
    """Return whether a state's entry is a name and a tensor of real numbers in memory."""
    name, tensor = item
    return (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex() or tensor.is_nested)
    )


def load_masked(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Give ``network`` the weights of a masked ``state``, in place; return the masked layers.

    Raises ``InputError`` where names or shapes are not the network's, or another tensor than a
    weight is masked.
    """
    masked = [name.removesuffix(f".{MASK}") for name in state if name.endswith(f".{MASK}")]
    plain = dict(state)
    layers = dict(network.named_modules())
    _check_shapes(network, plain)  # before anything is computed: a tensor can claim any shape
    for name in masked:
        layer = layers.get(name)
        original, mask = plain.pop(f"{name}.{ORIGINAL}", None), plain.pop(f"{name}.{MASK}")
        if layer is None or original is None or not can_be_sparse(layer):
            raise InputError(
                f"the state masks {shown(name)}, which is no layer of the network that a sparse "
                "kernel can run; prune linear layers and convolutions of one group"
            )
        if original.shape != mask.shape:
            raise InputError(
                f"{name}.{MASK} has shape {tuple(mask.shape)}, but its weight "
                f"{tuple(original.shape)}; save the state again"
            )
        plain[f"{name}.weight"] = original * mask
    for name, tensor in plain.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"the state's {shown(name)} is not finite; save the network before that"
            )
        if name.endswith(("_mask", "_orig")):
            raise InputError(
                f"the state masks {shown(name)}; leave that out: only masks of weights can be "
                "taken over"
            )
    try:
        network.load_state_dict(plain)
    except RuntimeError as error:
        text = printable(" ".join(str(error).split()), 500)
        raise InputError(
            f"the state is not of this network: {text}; name the task that it is of"
        ) from None
    return masked


def _check_shapes(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ``InputError`` where a tensor is larger than any of its name can be."""
    own = network.state_dict()
    largest = max((tensor.numel() for tensor in own.values()), default=0)
    for name, tensor in state.items():
        if tensor.numel() > largest:
            raise InputError(
                f"the state is not of this network: {shown(name)} has {tensor.numel()} values, "
                f"more than any tensor of it; name the task that it is of"
            )


def width_and_pattern(weight: Tensor) -> tuple[int, str] | None:
    """Return the density of a weight in thousandths and the pattern of its zeros.

    The strictest one that the zeros have: "1:4" and "2:4" where they are hardly sparser than that,
    "4x1", "kernel" and "vector" where all zeros lie in such blocks, else "csr". ``None`` where the
    weight is dense, or has nothing left.
    """
    density = float((weight != 0).double().mean())
    for pattern in sorted(KEEP, key=lambda name: KEEP[name]):
        own = KEEP[pattern] / 4
        if density > own - FEW and weight.shape[1] >= 4 and not first_violation(weight, pattern):
            return round(THOUSAND * own), pattern
    width = round(THOUSAND * density)
    return (width, _of_blocks(weight != 0)) if 0 < width < THOUSAND else None


def _of_blocks(kept: Tensor) -> str:
    """Return which blocks of ``kept`` ``[out, in, *kernel]`` are all there or all gone."""
    rows = kept.flatten(1)
    if len(rows) % 4 == 0 and _same(rows.reshape(-1, 4, rows.shape[1]), 1):
        return "4x1"
    if kept.dim() == 4 and kept[0, 0].numel() > 1:
        if _same(kept.flatten(2), 2):
            return "kernel"
        if _same(kept, 3):
            return "vector"
    return "csr"


def _same(kept: Tensor, dim: int) -> bool:
    return bool((kept.any(dim) == kept.all(dim)).all())
