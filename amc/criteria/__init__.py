"""Pruning criteria: which weights and channels stay.

Each is a ``amc.criteria.base.Criterion``: scores of a layer's weights, from these and calibration
statistics. Adding one takes a file here and a line in ``CRITERIA``.
"""

CRITERIA: dict[str, str] = {
    "magnitude_l1": "amc.criteria.magnitude:magnitude_l1",
    "magnitude_l2": "amc.criteria.magnitude:magnitude_l2",
    "taylor": "amc.criteria.taylor:taylor",
    "batch_norm_scale": "amc.criteria.batch_norm:batch_norm_scale",
    "wanda": "amc.criteria.wanda:wanda",
    "second_order": "amc.criteria.second_order:second_order",
}
