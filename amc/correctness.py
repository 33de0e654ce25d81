"""Which images of a split a network gets right: one bit an image, in a safetensors file.

Means of accuracies cannot be compared pair by pair; these can (``amc.paired``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from amc.errors import InputError
from amc.files import write_bytes
from amc.strict_json import parse_json
from amc.task import Score, accuracy, right

FACTS = "amc.correctness"

Correct = NDArray[np.bool_]


class Marking:
    """A score function that also remembers, image by image, whether the answer was right.

    It stands in for ``score`` and returns what that does. Other scores than top-1 accuracy, which
    agreement with the dense network is too, leave nothing to remember.
    """

    def __init__(self, score: Score) -> None:
        self._score, self._parts = score, list[Correct]()

    def __call__(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the score of a batch: ``outputs`` ``[B, K]``, ``labels`` as ``accuracy`` takes."""
        if self._score is accuracy:
            self._parts.append(right(outputs, labels).bool().numpy())
        return self._score(outputs, labels)

    @property
    def correct(self) -> Correct | None:
        """Bool ``[images]`` of all batches so far, or ``None`` where the score is another."""
        return np.concatenate(self._parts) if self._parts else None


def write_correctness(path: Path, correct: Mapping[str, Correct]) -> None:
    """Write bool ``[images]`` by name; all of one length."""
    (images,) = {len(one) for one in correct.values()}
    packed = {name: np.packbits(one) for name, one in correct.items()}
    write_bytes(path, save(packed, {FACTS: json.dumps({"images": images})}))


def read_correctness(path: Path) -> dict[str, Correct]:
    """Return what ``write_correctness`` wrote; ``InputError`` where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = parse_json((file.metadata() or {})[FACTS].encode(), f"{str(path)!r}")
            images = int(facts["images"])
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if any(
            bits.dtype != np.uint8 or bits.shape != (-(-images // 8),) for bits in packed.values()
        ):
            raise ValueError(f"its bits are not those of {images} images")
        return {
            name: np.unpackbits(bits, count=images).astype(np.bool_)
            for name, bits in packed.items()
        }
    except Exception as error:  # safetensors raises a type of its own that it does not export
        raise InputError(
            f"{str(path)!r} cannot be read ({error}); fine-tune the plan again"
        ) from error
