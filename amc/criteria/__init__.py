"""Pruning criteria: which channels stay. One callable from weights to a score a channel.

Adding one takes a file here and a line in ``CRITERIA``.
"""

CRITERIA: dict[str, str] = {
    "magnitude_l1": "amc.criteria.magnitude:magnitude_l1",
    "magnitude_l2": "amc.criteria.magnitude:magnitude_l2",
}
