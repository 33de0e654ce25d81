"""Write ``amc/zoo/fashion_pack.npz`` from the original files: which 10,000 images are shipped.

python experiments/make_pack.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from amc.zoo.data import debian_folder, read_split

TRAIN, SEARCH, TEST, SEED = 5_000, 3_000, 2_000, 2018


def main() -> None:
    """Draw disjoint training and search images, and test images, with a fixed seed."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else debian_folder()
    rng = np.random.default_rng(SEED)
    images, labels = read_split(root, "train")
    test_images, test_labels = read_split(root, "t10k")
    order = rng.permutation(len(labels)).astype(np.int32)
    search, train = order[:SEARCH], order[SEARCH : SEARCH + TRAIN]
    test = rng.permutation(len(test_labels))[:TEST]
    np.savez_compressed(
        "amc/zoo/fashion_pack.npz",
        train_images=images[train],
        train_labels=labels[train],
        train_index=train,
        search_images=images[search],
        search_labels=labels[search],
        search_index=search,
        test_images=test_images[test],
        test_labels=test_labels[test],
    )


if __name__ == "__main__":
    main()
