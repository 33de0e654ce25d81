"""Files that would run code, were they read carelessly: each leaves a canary when it does.

Made while the tests run, so that no pickle lies in the repository.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Canary:
    """An object whose unpickling makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.place,)


def corpus(place: Path) -> dict[str, bytes]:
    """Return hostile files by name; each that is believed makes the folder ``place``."""
    canary = Canary(place)
    bare = pickle.dumps(canary)
    state = {"fc.weight_mask": torch.ones(2), "x": canary}
    return {
        "torch.zip": _saved(state),
        "torch.legacy": _saved(state, zipped=False),
        "pickle": bare,
        "pickle.protocol0": pickle.dumps(canary, protocol=0),
        "torch.tar": _tar({"pickle": bare, "storages": bare, "tensors": bare}),
        "npz.object": _npz(np.array([canary], dtype=object)),
        "npy.object": _npy(np.array([canary], dtype=object)),
        "sb3.zip": _zip({"data": _sb3(bare), "policy.pth": _saved(state)}),
        "torch.pt2": _zip({"archive/version": b"0", "archive/data/constants/x": bare}),
        "yaml.apply": f"!!python/object/apply:os.mkdir ['{place}']\n".encode(),
        "yaml.value": f"task: !!python/object/apply:os.mkdir ['{place}']\n".encode(),
        "yaml.module": b"task: digits\nagents: !!python/module:antigravity ''\n",
        "json.classes": json.dumps(
            {
                "py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [str(place)]}],
                "__class__": "os.mkdir",
                "__reduce__": ["os.mkdir", [str(place)]],
            }
        ).encode(),
        "safetensors.length": (2**62).to_bytes(8, "little") + b"{}",
        "safetensors.overlap": safetensors(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            b"\0" * 12,
        ),
        "safetensors.shape": safetensors(
            {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"\0" * 8
        ),
        "safetensors.dtype": safetensors(
            {"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8
        ),
        "safetensors.pickle": safetensors(
            {"__metadata__": {"amc.finetune": base64.b64encode(bare).decode()}}, b""
        ),
        "nothing": b"",
        "depth": b"[" * 200_000,
    }


def safetensors(header: dict[str, Any], data: bytes) -> bytes:
    """Return a file of that header, whatever it says."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _saved(value: Any, *, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _npz(array: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, train_images=array)
    return out.getvalue()


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _sb3(content: bytes) -> bytes:
    serialized = base64.b64encode(content).decode()
    return json.dumps({"policy_class": {":type:": "x", ":serialized:": serialized}}).encode()


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
