"""Error curves of all sites of a space: of channels after least squares, of weights as pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from amc.data import Data
from amc.pruning import Pruner
from amc.reconstruction.curves import ErrorCurve, ErrorCurves
from amc.reconstruction.least_squares import LeastSquares
from amc.space import SearchSpace

BATCH = 250


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
    blocks = _of_blocks(network, [s.name for s in space.sites if s.decides == "block"], calibration)
    curves = {**solver.curves().sites, **pruner.curves(space.sites), **blocks}
    return ErrorCurves(curves), solver.notes


@torch.no_grad()
def _of_blocks(network: nn.Module, names: Sequence[str], data: Data) -> dict[str, ErrorCurve]:
    """Return the error of passing on what each block is given, by the block's name.

    It is the mean square of what the block changes, over that of its output, both less their means
    by channel, which a bias behind it makes up for; at most 1.
    """
    lost, power = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    given: dict[str, Tensor] = {}

    def record(name: str, output: Tensor) -> None:
        lost[name] += _deviation(output - given.pop(name))
        power[name] += _deviation(output)

    hooks = []
    for name in names:
        block = network.get_submodule(name)  # it may write over what it is given
        hooks.append(
            block.register_forward_pre_hook(
                lambda _, x, name=name: given.__setitem__(name, x[0].clone())
            )
        )
        hooks.append(block.register_forward_hook(lambda _, x, y, name=name: record(name, y)))
    try:
        for batch in data.batches(BATCH) if names else ():
            network(*batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    errors = {n: min(1.0, lost[n] / power[n]) if power[n] else 0.0 for n in names}
    return {
        name: ErrorCurve(np.array([error, 0.0]), {name: np.array([error, 0.0])})
        for name, error in errors.items()
    }


def _deviation(x: Tensor) -> float:
    """Return the squared deviations of ``x`` ``[B, C, ...]`` from each channel's mean, summed."""
    channels = x.transpose(0, 1).flatten(1).double()
    return float((channels - channels.mean(1, keepdim=True)).square().sum())
