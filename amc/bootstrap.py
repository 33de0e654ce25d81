"""Paired bootstrap: how sure a difference of accuracies is that two agents reach on one test split.

Both agents answer the same images, and run with the same seeds, so what is resampled is their
difference, image by image and seed by seed (Efron and Tibshirani, *An Introduction to the
Bootstrap*, 1993: percentile intervals).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc.correctness import Correct

LEVEL = 0.95
RESAMPLES = 20_000
SEED = 0


@dataclass(frozen=True)
class Difference:
    """A mean difference of accuracies, as a fraction, and 95% intervals ``(low, high)``.

    ``interval`` allows for other test images and other seeds, ``images_interval`` for other images
    alone: it is about these very plans. With few seeds the former is rough, and too narrow rather
    than too wide, for three seeds show little of how seeds differ.
    """

    mean: float
    interval: tuple[float, float]
    images_interval: tuple[float, float]


def paired_difference(ours: Correct, baseline: Correct) -> Difference:
    """Return how far ``ours`` is above ``baseline``, both bool ``[seeds, images]``, right or wrong.

    Rows are paired, and so are columns: one image is drawn for all seeds at once, as they share the
    test split. Resampled from a generator of its own, so that equal input gives equal intervals.
    """
    if ours.shape != baseline.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(
            f"need two equal shapes [seeds, images], not {ours.shape}, {baseline.shape}"
        )
    seeds, images = ours.shape
    differences = ours.astype(np.int8) - baseline.astype(np.int8)
    # Images whose differences are the same for every seed are exchangeable: drawing images is
    # drawing how many of each kind.
    kinds, counts = np.unique(differences.T, axis=0, return_counts=True)
    generator = np.random.default_rng(SEED)
    drawn = generator.multinomial(images, counts / images, size=RESAMPLES)
    by_seed = drawn @ kinds / images  # [RESAMPLES, seeds]
    seeds_drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    return Difference(
        float(differences.mean()),
        _percentiles((by_seed * seeds_drawn).sum(1)),
        _percentiles(by_seed.mean(1)),
    )


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
