"""Looking up a criterion for channels or for weights; not every one can score both."""

from __future__ import annotations

from amc.criteria import CRITERIA
from amc.criteria.base import Criterion
from amc.errors import InputError
from amc.registry import lookup


def of_channels(name: str, field: str = "sites.criterion") -> Criterion:
    """Return a criterion that scores channels; ``InputError`` for one that does not."""
    criterion: Criterion = lookup(CRITERIA, name, field)
    return _checked(criterion, f"{field} {name!r} cannot choose channels", criterion.of_channels)


def of_weights(name: str, field: str = "sites.weight_criterion") -> Criterion:
    """Return a criterion that scores single weights; ``InputError`` for one that does not."""
    criterion: Criterion = lookup(CRITERIA, name, field)
    return _checked(criterion, f"{field} {name!r} cannot choose weights", criterion.of_weights)


def _checked(criterion: Criterion, what: str, why: str) -> Criterion:
    if why:
        raise InputError(f"{what}: {why}; choose another, such as 'magnitude_l1'")
    return criterion
