"""The compiled kernels: finding and loading the C library, and calling it through ctypes.

The interface is ``amc/kernels/csrc/amc_kernels.h``, which says what the arrays of a weight hold.
Two environment variables, read when the library is first asked for:

- ``AMC_KERNELS``: ``torch`` runs the slower backend though the library may be there; a path (with a
  slash) loads that library instead of the one beside this file.
- ``AMC_ISA``: the instruction set to run, instead of the fastest that this processor has.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import byref, c_char_p, c_double, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from amc.errors import InputError

ABI = 1
PATH = Path(__file__).with_name("libamc_kernels.so")
REMEDY = "`make kernels` builds it with a C++ compiler (Debian: g++) and shows what goes wrong"


class Weight(ctypes.Structure):
    """``amc_weight``: packed weights. Pointers are addresses, as of ``Tensor.data_ptr()``."""

    _fields_: ClassVar = [
        ("depth", c_int64),
        ("block", c_int64),
        ("keep", c_int64),
        ("values", c_void_p),
        ("indices", c_void_p),
        ("starts", c_void_p),
    ]


class Call(ctypes.Structure):
    """``amc_call``: what is read and written; strides in elements: batch, channel, row, column."""

    _fields_: ClassVar = [
        ("x", c_void_p),
        ("y", c_void_p),
        ("bias", c_void_p),
        ("batch", c_int64),
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("x_stride", c_int64 * 4),
        ("rows", c_int64),
        ("out_height", c_int64),
        ("out_width", c_int64),
        ("y_stride", c_int64 * 4),
        ("kernel_h", c_int64),
        ("kernel_w", c_int64),
        ("stride_h", c_int64),
        ("stride_w", c_int64),
        ("pad_h", c_int64),
        ("pad_w", c_int64),
        ("dilation_h", c_int64),
        ("dilation_w", c_int64),
        ("relu", c_int64),
        ("threads", c_int64),
    ]


FAMILIES = ("nm", "csr", "block", "nm_gemv", "nm_gemv_half", "csc_gemv", "dense_gemv")
NO_MEMORY = 1
BAD_CALL = 2


def library() -> ctypes.CDLL | None:
    """Return the loaded library, its functions typed, or None where the slower backend runs.

    Loads torch first. ``why_no_library`` says why there is none.

    Raises:
        InputError: ``AMC_KERNELS`` names a library that cannot be used, or ``AMC_ISA`` an
            instruction set that was not built or that this processor lacks.
    """
    return _loaded()[0]


def why_no_library() -> str:
    """Return why ``library()`` is None and what to do about it; empty where it is there."""
    return _loaded()[1]


def backend() -> str:
    """Return what runs sparse kernels: ``c-`` and the instruction set in use, or ``torch``."""
    handle = library()
    return "torch" if handle is None else f"c-{handle.amc_isa().decode()}"


def isas() -> tuple[str, ...]:
    """Return the instruction sets that were built, slowest first; empty without a library."""
    handle = library()
    return () if handle is None else tuple(handle.amc_isas().decode().split())


def select_isa(name: str) -> None:
    """Run the kernels of instruction set ``name`` from now on, in every thread.

    Raises:
        InputError: it was not built, this processor lacks it, or there is no library.
    """
    handle = library()
    if handle is None:
        raise InputError(f"instruction set {name!r} needs the compiled kernels: {why_no_library()}")
    _select(handle, name, "the instruction set")


class Kernel:
    """The kernel of one family, as a function that raises.

    The two structures are read during the call alone. Their addresses must be of memory of the
    lengths that the header states; nothing is checked here.

    Raises (when called):
        MemoryError: no room for the packed activations. Nothing was written.
        InputError: sizes that this family does not take. Nothing was written.
    """

    def __init__(self, family: str, function: Callable[..., int]) -> None:
        self.family = family
        self.function = function  # of references to the two structures; returns a code

    def __call__(self, weight: Weight, call: Call) -> None:
        """Run the kernel."""
        code = self.function(byref(weight), byref(call))
        if code:
            raise self.error(code)

    def error(self, code: int) -> Exception:
        """Return the exception for a ``code`` that is not 0."""
        return _error(self.family, code)


def call(family: str) -> Kernel:
    """Return the kernel of ``family``, one of ``FAMILIES``.

    Raises ``InputError`` where there is no library.
    """
    handle = library()
    if handle is None:
        raise InputError(f"kernel {family!r} needs the compiled kernels: {why_no_library()}")
    # No argument types: to compare them, ctypes would take as long as a small layer.
    return Kernel(family, handle[f"amc_{family}"])


def peak_flops() -> float:
    """Return the multiply-adds a second of one thread with operands in registers: the ceiling.

    Takes a moment. Raises ``InputError`` where there is no library.
    """
    handle = library()
    if handle is None:
        raise InputError(f"the peak is measured by the compiled kernels: {why_no_library()}")
    return float(handle.amc_peak_flops())


def _error(family: str, code: int) -> Exception:
    if code == NO_MEMORY:
        return MemoryError(f"kernel {family!r} found no memory to pack its activations in")
    if code == BAD_CALL:
        return InputError(
            f"kernel {family!r} does not take these sizes; amc_kernels.h says which it takes"
        )
    return RuntimeError(f"kernel {family!r} answered with the unknown code {code}; {REMEDY}")


@lru_cache(maxsize=1)
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    wanted = os.environ.get("AMC_KERNELS", "")
    if wanted == "torch":
        return None, "AMC_KERNELS=torch asks for the slower backend; unset it for the compiled one"
    if wanted and "/" not in wanted:
        raise InputError(
            f"AMC_KERNELS must be 'torch' or the path of a library, but is {wanted!r}; unset it "
            "for the compiled kernels"
        )
    handle, why = _opened(Path(wanted) if wanted else PATH)
    if handle is None:
        if wanted:
            raise InputError(f"AMC_KERNELS must name a library that can be used: {why}")
        return None, why
    isa = os.environ.get("AMC_ISA", "")
    if isa:
        _select(handle, isa, "AMC_ISA")
    return handle, ""


def _opened(path: Path) -> tuple[ctypes.CDLL | None, str]:
    """Return the library at ``path`` and no reason, or None and the reason."""
    # torch brings its own OpenMP. Once that is loaded, the library takes the same one and its
    # threads; the other way round the process would hold two pools.
    import torch  # noqa: F401

    if not path.exists():
        return None, f"{path} does not exist; {REMEDY}"
    try:
        handle = ctypes.CDLL(str(path))
        found = handle.amc_abi()
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded ({error}); {REMEDY}"
    if found != ABI:
        return None, f"{path} has interface {found}, but {ABI} is needed; {REMEDY}"
    handle.amc_peak_flops.restype = c_double
    handle.amc_isa.restype = handle.amc_isas.restype = c_char_p
    handle.amc_select_isa.argtypes = [c_char_p]
    return handle, ""


def _select(handle: ctypes.CDLL, name: str, what: str) -> None:
    if handle.amc_select_isa(name.encode()):
        built = handle.amc_isas().decode().split()
        reason = "which this processor lacks" if name in built else "which was not built"
        raise InputError(
            f"{what} must be one of {', '.join(built)} that this processor has, but is {name!r}, "
            f"{reason}; leave it out for the fastest"
        )
