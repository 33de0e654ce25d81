"""Which kinds of calls a network makes, beside the operations themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

DENSE_AFTER_SPARSE = "dense_after_sparse"


def counted(kinds: Iterable[str]) -> Counter[str]:
    """Return how many operations there are of each ``OpTemplate.call_kind``, given in their order.

    ``DENSE_AFTER_SPARSE`` counts, in addition, the dense layers whose last layer was a sparse one:
    it has taken the caches for itself.
    """
    listed = list(kinds)
    layers = [kind for kind in listed if kind != "function"]
    switches = sum(pair == ("sparse", "layer") for pair in pairwise(layers))
    return Counter(listed) + Counter({DENSE_AFTER_SPARSE: switches})
