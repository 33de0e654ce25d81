"""How much of what its consumers compute a site loses at each width: known without evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amc.errors import InputError


@dataclass(frozen=True)
class ErrorCurve:
    """The error of keeping a site's first ``k`` channels by importance, all else being dense.

    ``relative_error[k]``, ``k = 0 .. channels``, is the squared error of the consumers' outputs
    after least squares, over the power of those outputs without what a bias alone explains;
    consumers count by that power. ``layers`` has the same for each consumer that is not too wide
    to be solved for.
    """

    relative_error: NDArray[np.float64]
    layers: Mapping[str, NDArray[np.float64]]

    @staticmethod
    def of(left: Mapping[str, NDArray[np.float64]], power: Mapping[str, float]) -> ErrorCurve:
        """Return the curve of squared errors ``left [channels + 1]`` and powers, a consumer."""
        total = sum(power.values())
        combined = np.sum(list(left.values()), axis=0)
        return ErrorCurve(
            combined / total if total else np.zeros_like(combined),
            {n: left[n] / power[n] if power[n] else np.zeros_like(left[n]) for n in left},
        )


@dataclass(frozen=True)
class ErrorCurves:
    """The error curve of every site whose consumers can be solved for, by the site's name."""

    sites: Mapping[str, ErrorCurve]

    def at(self, site: str, width: int) -> float:
        """Return the relative error of ``site`` at ``width``; ``InputError`` for one unknown."""
        if site not in self.sites:
            raise InputError(f"site {site!r} has no error curve; there are {sorted(self.sites)}")
        curve = self.sites[site].relative_error
        if not 0 <= width < len(curve):
            raise InputError(f"width {width} at site {site!r} must be 0 to {len(curve) - 1}")
        return float(curve[width])

    def as_json(self) -> dict[str, list[float]]:
        """Return ``relative_error`` by site, as JSON values."""
        return {name: curve.relative_error.tolist() for name, curve in self.sites.items()}
