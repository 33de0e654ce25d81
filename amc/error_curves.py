"""Error curves of all sites of a space: of channels after least squares, of weights as pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from amc.data import Data
from amc.pruning import Pruner
from amc.reconstruction.curves import ErrorCurves
from amc.reconstruction.least_squares import LeastSquares
from amc.space import SearchSpace


def curves_of(
    network: nn.Module,
    space: SearchSpace,
    calibration: Data,
    weight_criterion: str,
    on_batch: Callable[[int], None] = lambda examples: None,
) -> tuple[ErrorCurves, Sequence[str]]:
    """Return what each site loses at each width, and what to know of ill-conditioned layers.

    ``on_batch`` is told after each batch of ``calibration`` how many examples it had. Raises
    ``torch.linalg.LinAlgError`` where the examples lead to numbers that are not finite.
    """
    solver = LeastSquares(network, space.groups, space.orders, calibration, on_batch)
    pruner = Pruner(weight_criterion, network, space.groups, calibration)
    curves = {**solver.curves().sites, **pruner.curves(space.sites)}
    return ErrorCurves(curves), solver.notes
