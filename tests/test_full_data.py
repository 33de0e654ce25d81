"""``data: full`` on files in Fashion-MNIST's format: nothing of the search split is trained on."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from amc.errors import InputError
from amc.zoo.data import MEAN, STD, load


def write_split(folder: Path, prefix: str, count: int) -> None:
    """Write images whose first three pixels are their own position, in base 256."""
    images = np.zeros((count, 28, 28), np.uint8)
    for place in range(3):
        images[:, 0, place] = (np.arange(count) >> (8 * place)) & 255
    for kind, header, values in (
        ("images-idx3", 16, images),
        ("labels-idx1", 8, images[:, 0, 0] % 10),
    ):
        content = bytes(header) + values.tobytes()
        path = folder / f"{prefix}-{kind}-ubyte.gz"
        path.write_bytes(gzip.compress(content, compresslevel=1))


def test_full_leaves_the_search_images_out(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 60_000)
    write_split(tmp_path, "t10k", 10_000)
    splits = load("full", str(tmp_path))
    assert [len(s) for s in (splits.train, splits.search, splits.test)] == [57_000, 3_000, 10_000]
    positions = []
    for split in (splits.train, splits.search):
        first = (split.inputs[0][:, 0, 0, :3] * STD + MEAN) * 255
        positions.append((first.round().long().numpy() @ np.array([1, 256, 65536])).tolist())
    assert sorted(positions[0] + positions[1]) == list(range(60_000))
    pack = np.load(Path(load.__code__.co_filename).parent / "fashion_pack.npz")
    assert positions[0][:5_000] == pack["train_index"].tolist()
    assert positions[1] == pack["search_index"].tolist()


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no train-images-idx3-ubyte.gz"):
        load("full", str(tmp_path))
