"""The compiled layers for scoring: finding, loading and calling the C library.

The interface is ``amc/scoring/csrc/scoring.h``. ``AMC_SCORING`` (an environment variable, read when
first asked for) lowers what may run: ``0`` nothing, ``1`` what needs AVX-512, ``2`` what
needs AMX too.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from amc.errors import InputError

ABI = 1
NO_MEMORY = 1
PATH = Path(__file__).with_name("libamc_scoring.so")
NOTHING, VECTORS, TILES = 0, 1, 2


class Layer(ctypes.Structure):
    """``amc_layer``. Pointers are addresses, as of ``Tensor.data_ptr()``."""

    _fields_: ClassVar = [
        ("x", c_void_p),
        ("y", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("other", c_void_p),
        ("weight", c_void_p),
        ("batch", c_int64),
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("rows", c_int64),
        ("out_height", c_int64),
        ("out_width", c_int64),
        ("kernel_h", c_int64),
        ("kernel_w", c_int64),
        ("stride_h", c_int64),
        ("stride_w", c_int64),
        ("pad_h", c_int64),
        ("pad_w", c_int64),
        ("relu", c_int64),
    ]


@lru_cache(maxsize=1)
def level() -> int:
    """Return what this machine runs: ``NOTHING``, ``VECTORS`` (all but ``amc_tiles``) or ``TILES``.

    Raises ``InputError`` where ``AMC_SCORING`` is no level.
    """
    wanted = os.environ.get("AMC_SCORING", str(TILES))
    if wanted not in {"0", "1", "2"}:
        raise InputError(f"AMC_SCORING must be 0, 1 or 2, but is {wanted!r}; unset it for the most")
    handle = _library()
    return NOTHING if handle is None else min(int(wanted), int(handle.amc_scoring_level()))


def run(function: Literal["amc_depthwise", "amc_direct", "amc_tiles"], layer: Layer) -> None:
    """Run a layer; ``level`` must allow it, and addresses must be of the header's lengths.

    Raises ``MemoryError`` where there is no room for a panel of inputs.
    """
    code = _library()[function](byref(layer))  # type: ignore[index]
    if code == NO_MEMORY:
        raise MemoryError(f"{function} found no memory to lay its inputs out in")
    if code:
        raise RuntimeError(f"{function} answered with code {code}; scoring.h says what it takes")


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """Return the library, ``None`` where it was not built, cannot be loaded or is another's."""
    try:
        handle = ctypes.CDLL(str(PATH))
        return handle if handle.amc_scoring_abi() == ABI else None
    except (OSError, AttributeError):
        return None
