"""Names of layers in a configuration: what is meant by them, and whether they are known."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from amc.errors import InputError
from amc.registry import nearest


def is_within(layer: str, name: str) -> bool:
    """Return whether ``name`` is the layer, or a module that it is a part of."""
    return layer == name or layer.startswith(f"{name}.")


def check_names(network: nn.Module, exclude: Sequence[str]) -> None:
    """Raise ``InputError`` for a name in ``sites.exclude`` that the network does not have."""
    known = [name for name, _ in network.named_modules() if name]
    for name in exclude:
        if name not in known:
            raise InputError(
                f"sites.exclude names {name!r}, which is no layer of the network"
                f"{nearest(name, known)}; amc inspect lists them"
            )
