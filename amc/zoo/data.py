"""Fashion-MNIST (Zalando Research, MIT): the shipped pack of 10,000 images, and the full set.

The pack is one ``.npz``: ``{train,search,test}_images`` uint8 ``[N, 28, 28]``, ``*_labels`` uint8
``[N]``, and ``{train,search}_index`` int32 ``[N]``, positions in the original training split. The
first 1,000 training images are the calibration images. Search images are taken out of the training
split of the full set as well, so no trained network of the zoo has ever seen them.
"""

from __future__ import annotations

import gzip
import subprocess
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from amc.data import Data
from amc.errors import InputError

DEBIAN_PACKAGE = "dataset-fashion-mnist"
LARGEST = 100_000_000  # bytes of a file; the original's have at most 47 million
MEAN, STD = 0.2860, 0.3530
CALIBRATION = 1_000


SPLITS = ("train", "search", "test")


@dataclass(frozen=True)
class Splits:
    """Training, search and test images, normalised float32 ``[N, 1, 28, 28]``, labels int64."""

    train: Data
    search: Data
    test: Data


def load(data: Literal["pack", "full"], folder: str | None = None) -> Splits:
    """Return the splits of the shipped pack, or of the full set from ``folder``.

    With ``full``, training is the original split without the search images, calibration images
    first; test is the whole original test split. Without ``folder`` the Debian package is asked.
    """
    with (
        resources.files("amc.zoo").joinpath("fashion_pack.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as pack,
    ):
        if data == "pack":
            return Splits(*(_images(pack[f"{s}_images"], pack[f"{s}_labels"]) for s in SPLITS))
        train_index, search_index = pack["train_index"], pack["search_index"]
    root = Path(folder) if folder else debian_folder()
    images, labels = read_split(root, "train")
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate([train_index, search_index]))
    order = np.concatenate([train_index, rest])
    return Splits(
        _images(images[order], labels[order]),
        _images(images[search_index], labels[search_index]),
        _images(*read_split(root, "t10k")),
    )


def read_split(root: Path, prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images uint8 ``[N, 28, 28]`` and labels uint8 ``[N]`` of one IDX pair in ``root``."""
    arrays = []
    for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
        path = root / f"{prefix}-{kind}-ubyte.gz"
        if not path.is_file():
            raise InputError(
                f"data_folder {str(root)!r} has no {path.name}; name the folder that holds the "
                f"four Fashion-MNIST files, or install the Debian package {DEBIAN_PACKAGE}"
            )
        try:
            with gzip.open(path) as file:
                content = file.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{str(path)!r} is not readable gzip: {error}; restore it") from None
        arrays.append(np.frombuffer(content, np.uint8)[offset:])
    images, labels = arrays
    if len(images) > LARGEST or len(images) != len(labels) * 28 * 28 or labels.max(initial=0) > 9:
        raise InputError(
            f"data_folder {str(root)!r}: {prefix} does not hold as many images of 28 x 28 as "
            "labels from 0 to 9; restore the four Fashion-MNIST files"
        )
    return images.reshape(-1, 28, 28), labels


def debian_folder() -> Path:
    """Return the folder where the Debian package keeps its files; ``InputError`` without it."""
    try:
        listing = subprocess.run(
            ["dpkg", "-L", DEBIAN_PACKAGE], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        listing = ""
    for line in listing.splitlines():
        if line.endswith("train-images-idx3-ubyte.gz"):
            return Path(line).parent
    raise InputError(
        "data 'full' needs the original Fashion-MNIST files; install the Debian package "
        f"{DEBIAN_PACKAGE} (apt-get install {DEBIAN_PACKAGE}), set data_folder, or use data 'pack'"
    )


def _images(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Data:
    inputs = torch.from_numpy(images.astype(np.float32) / 255.0)
    return Data(((inputs - MEAN) / STD).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
