"""Racing: an evaluation ends once its plan has, with stated confidence, lost to the best so far.

The images are looked at in an order drawn once. After each batch a test asks whether the mean over
all of them can still be what it needs to be. It is the betting test for sampling without
replacement (Waudby-Smith and Ramdas, arXiv:2006.04347, and arXiv:2010.09686, section 5): a gambler
bets that each value is below what the images left would have to give in the mean. Unless the plan
has lost, the capital is a nonnegative supermartingale, and reaches ``1 / (1 - confidence)`` at any
time with probability ``1 - confidence`` at most (Ville's inequality). So it may be looked at as
often as one likes; values in [0, 1] are all that is asked for, and a small variance helps.

The chance is over the order of the images. The plan that would win a search is stopped with
probability ``1 - confidence`` at most: needing its own score it would be, and it needs no more than
that; the capital rises with what is needed, so that this may depend on the order as well. Where
proposals do not depend on scores, a search that races ends at another plan so rarely, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Stakes, as fractions of the largest one that cannot ruin the gambler; each gets an equal part of
# the capital. Small ones win against plans that are nearly as good, large ones win early.
STAKES = np.geomspace(0.01, 0.9, 10)
ROUNDING = 1e-9  # more than what a sum of float64 is off by, in images


@dataclass(frozen=True)
class Racing:
    """``confidence`` that a plan which is stopped has lost; ``seed`` draws the order of images."""

    confidence: float = 0.99
    seed: int = 0

    def order(self, images: int) -> Tensor:
        """Return the order in which images are looked at: a permutation, int64 ``[images]``."""
        return torch.randperm(images, generator=torch.Generator().manual_seed(self.seed))

    def lost(self, seen: NDArray[np.float64], images: int, needed: float) -> bool:
        """Return whether the mean over all ``images`` is below ``needed``, at the confidence.

        ``seen`` are the values in [0, 1] of the first images, in the order that was drawn.
        """
        capital = log_capital(seen, images, needed)
        return bool(capital.max() >= -math.log1p(-self.confidence))


def log_capital(seen: NDArray[np.float64], images: int, needed: float) -> NDArray[np.float64]:
    """Return the logarithm of the gambler's capital after each of ``seen``, ``[len(seen)]``.

    It starts at 0, and is infinite once even ones for all images left would not be enough.
    """
    total = np.cumsum(seen)
    missing = images * needed - np.concatenate([[0.0], total])
    left = images - np.arange(len(seen) + 1)
    due = missing[:-1] / left[:-1]  # what each image left must give in the mean
    gains = (due - seen) / np.maximum(1.0 - due, ROUNDING)  # never below -1
    parts = np.cumsum(np.log1p(STAKES[:, None] * gains), axis=1)
    capital: NDArray[np.float64] = np.logaddexp.reduce(parts, axis=0) - math.log(len(STAKES))
    capital[missing[1:] > left[1:] + ROUNDING] = np.inf
    return capital
