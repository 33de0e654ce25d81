"""Weights, checkpoints, images and tables of strangers: what is refused, in which words."""

from __future__ import annotations

import gzip
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from amc.correctness import read_correctness, write_correctness
from amc.data import Data
from amc.errors import InputError
from amc.finetune_checkpoint import Progress, read_checkpoint, write_checkpoint
from amc.latency import LatencyTable
from amc.masks import load_masked, read_masked
from amc.training import Schedule, Trainer
from amc.weights import read_state
from amc.zoo.data import read_split
from tests.hostile.corpus import safetensors


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8)


def masked(**change: Any) -> dict[Any, Any]:
    state: dict[Any, Any] = {
        "fc.weight_orig": torch.ones(8, 4),
        "fc.weight_mask": torch.ones(8, 4),
        "fc.bias": torch.zeros(8),
    }
    return {**state, **change.get("keys", {})}


@pytest.mark.parametrize(
    "keys",
    [
        {1: torch.ones(2)},
        {"fc.bias": torch.ones(8, dtype=torch.complex64)},
        {"fc.bias": torch.ones(8).to_sparse()},
        {"fc.bias": torch.ones(8, device="meta")},
        {"fc.bias": [1.0]},
        {("a",): torch.ones(2)},
    ],
)
def test_states_of_other_things_than_plain_tensors(tmp_path: Path, keys: dict[Any, Any]) -> None:
    torch.save(masked(keys=keys), tmp_path / "x.pt")
    with pytest.raises(InputError, match="plain tensors by name|not readable|holds more than"):
        read_masked(tmp_path / "x.pt")


def test_a_tensor_that_claims_to_be_huge_is_refused_before_it_is_made(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(2**40)  # one number in the file
    torch.save(masked(keys={"fc.weight_orig": huge, "fc.weight_mask": huge}), tmp_path / "x.pt")
    with pytest.raises(InputError, match="has 1099511627776 values, more than any tensor"):
        load_masked(Tiny(), read_masked(tmp_path / "x.pt"))


def test_a_compressed_archive_is_no_state(tmp_path: Path) -> None:
    torch.save(masked(), tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("archive/data/9", b"\0" * 5_000_000)
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(InputError, match="it is compressed, as torch.save never does"):
        read_masked(tmp_path / "bomb.pt")


def test_weights_must_be_finite_numbers(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for value in (np.nan, np.inf):
        save_file({"a": np.full(3, value, np.float32)}, path)
        with pytest.raises(InputError, match="a holds what is no finite number; restore"):
            read_state(path)
    path.write_bytes(
        safetensors({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"\0\0")
    )
    with pytest.raises(InputError, match="; restore the file"):
        read_state(path)


def trainer() -> Trainer:
    schedule = Schedule(steps=2, batch_size=2, learning_rate=0.1)
    data = Data(torch.randn(6, 4), torch.zeros(6, dtype=torch.int64))
    return Trainer(nn.Linear(4, 2), data, schedule, 0)


CHANGES: dict[str, Any] = {
    "stage": -1,
    "step": "1",
    "checks": [{"stage": 0}],
    "ends": [3],
    "train_s": float("inf"),
    "notes": [1],
    "extra": 1,
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_checkpoint_of_impossible_facts_is_refused(tmp_path: Path, key: str) -> None:
    path, value = tmp_path / "c.safetensors", CHANGES[key]
    identity = {"plan": "0" * 64, "data": "0" * 64, "settings": {}}
    progress = Progress()
    write_checkpoint(path, identity, progress, {"order": torch.arange(2)})
    assert read_checkpoint(path).identity == identity
    if key == "extra":
        write_checkpoint(path, {**identity, "plan": "x"}, progress, {})
    else:
        write_checkpoint(path, identity, replace(progress, **{key: value}), {})
    with pytest.raises(InputError, match="cannot be read .*; start again in another folder"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "order", [torch.tensor([0, 99]), torch.tensor([-1]), torch.tensor([0.5]), torch.ones(2, 2)]
)
def test_a_checkpoint_names_examples_that_are_there(order: Tensor) -> None:
    one = trainer()
    with pytest.raises(ValueError, match="order"):
        one.load({**one.state(), "order": order}, 1)


def test_bits_of_more_images_than_there_are(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_correctness(path, {"dense": np.ones(10, np.bool_)})
    content = path.read_bytes().replace(b'\\"images\\": 10}', b'\\"images\\": 9999999999}')
    length = int.from_bytes(content[:8], "little") + 8
    path.write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(InputError, match="not those of 9999999999 images"):
        read_correctness(path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"\0" * 16 + b"\0" * 784, b"\0" * 8 + b"\0\0"),
        (b"\0" * 16 + b"\0" * 783, b"\0" * 8 + b"\0"),
        (b"\0" * 16 + b"\0" * 784, b"\0" * 8 + b"\x0b"),
        (b"\0" * 9_000, b"\0" * 8 + b"\0"),
    ],
)
def test_images_that_do_not_fit_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: bytes, labels: bytes
) -> None:
    monkeypatch.setattr("amc.zoo.data.LARGEST", 2_000)  # of what a file grows to
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(InputError, match="t10k does not hold as many images"):
        read_split(tmp_path, "t10k")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="not readable gzip"):
        read_split(tmp_path, "t10k")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema_version": 2, "threads": 1e999}', "9" * 5000]
)
def test_a_table_nobody_can_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match="t.json'.*; delete it and write it again with"):
        LatencyTable.load(tmp_path / "t.json")
