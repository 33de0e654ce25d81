"""Second order: optimal brain surgeon, column by column (SparseGPT).

Hassibi and Stork (1993): of a layer ``y = W x`` with Hessian ``H = E[x x^T]``, removing ``w_j``
and adjusting the others adds ``w_j^2 / [H^-1]_jj`` to the squared error. Frantar and Alistarh
(arXiv:2301.00774, algorithm 1) walk over the columns once: what is left to adjust are the columns
to come, whose inverse Hessians are all in one Cholesky factor.

Zeros come in units of columns that lie side by side: one, the input channels that an N:M pattern
counts together, a row of a kernel, or a whole kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amc.criteria.base import Criterion, LayerView, Zeros
from amc.kernels.patterns import KEEP, UNSTRUCTURED, zeros_of_rows
from amc.reconstruction.rows import weight_columns

DAMPING = 0.01  # of the mean power of a column, as published
BLOCK = 128  # columns, about, whose zeros are chosen together, as published
ROWS = 4  # of a 4x1 block


def _saliency(layer: LayerView) -> Tensor:
    """Return ``w_ij^2 / [H^-1]_jj``: the error of removing each alone, all others adjusted."""
    assert layer.moments is not None
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(layer.moments)))
    order = torch.arange(len(inverse))
    diagonal = inverse.diagonal().expand(len(layer.weight), -1)
    return layer.weight.double().square() / _as_weight(diagonal, layer.weight, order)


def _prune(layer: LayerView, zeros: Zeros) -> Tensor:
    """Return the weight with the zeros, and with all that stays adjusted to them.

    Each block of columns has its share of the zeros; single weights of a row compete among
    themselves; of an N:M group those of highest saliency stay, when its first column is reached.
    """
    assert layer.moments is not None
    order, units = _units(layer.weight, zeros.pattern)
    matrix = weight_columns(layer.weight)[:, order].clone()
    factor = _inverse_factor(layer.moments[order[:, None], order])
    for first, last in _blocks(units):
        start, stop = units[first].start, units[last].stop
        part, own = matrix[:, start:stop], factor[start:stop, start:stop]
        local = [slice(u.start - start, u.stop - start) for u in units[first : last + 1]]
        bounds = first, last + 1
        gone = None if zeros.pattern in KEEP else _lowest(part, own, local, zeros, bounds)
        errors = torch.zeros_like(part)
        for u, unit in enumerate(local):
            if gone is None:
                dropped = _of_group(part[:, unit], own, unit, KEEP[zeros.pattern])
            else:
                dropped = gone[:, u, None].expand(-1, unit.stop - unit.start)
            for j in range(unit.start, unit.stop):
                now = dropped[:, j - unit.start]
                errors[:, j] = part[:, j] * now / own[j, j]
                part[:, j:] -= errors[:, j, None] * own[j, j:]
                part[now, j] = 0.0
        matrix[:, stop:] -= errors @ factor[start:stop, stop:]
    return _as_weight(matrix, layer.weight, order)


def _units(weight: Tensor, pattern: str) -> tuple[Tensor, list[slice]]:
    """Return the order of the columns, of (position, channel), and the units in it."""
    channels, taps = weight.shape[1], weight[0, 0].numel()
    columns = torch.arange(channels * taps)
    if pattern in KEEP:
        starts = [t * channels + c for t in range(taps) for c in range(0, channels, 4)]
        stops = [*starts[1:], len(columns)]
        return columns, list(map(slice, starts, stops))
    length = {"vector": weight.shape[-1] if taps > 1 else 1, "kernel": taps}.get(pattern, 1)
    if length > 1:
        columns = columns.unflatten(0, (taps, channels)).T.flatten()
    return columns, [slice(i, i + length) for i in range(0, len(columns), length)]


def _blocks(units: list[slice]) -> list[tuple[int, int]]:
    """Return the first and the last unit of each block of about ``BLOCK`` columns."""
    a_block = max(1, BLOCK // (units[0].stop - units[0].start))
    return [(i, min(i + a_block, len(units)) - 1) for i in range(0, len(units), a_block)]


def _lowest(
    part: Tensor, own: Tensor, units: list[slice], zeros: Zeros, bounds: tuple[int, int]
) -> Tensor:
    """Return which units of a block go, ``[rows, units]``, so that all blocks add up.

    ``bounds`` are where the block begins and ends among the units of a row.
    """
    saliency = (part / own.diagonal()).square()
    scores = torch.stack([saliency[:, unit].sum(1) for unit in units], 1)
    rows, pattern = len(scores), zeros.pattern
    if pattern in UNSTRUCTURED:
        before, after = (
            zeros_of_rows(round(zeros.sparsity * (rows * bound)), rows) for bound in bounds
        )
        ranks = scores.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        gone: Tensor = ranks < torch.from_numpy(after - before)[:, None]
        return gone
    if pattern == "4x1":
        padded = torch.cat([scores, scores.new_zeros(-rows % ROWS, len(units))])
        scores = padded.unflatten(0, (-1, ROWS)).sum(1)
    first, last = (round(zeros.sparsity * (len(scores) * bound)) for bound in bounds)
    flat = torch.zeros(scores.numel(), dtype=torch.bool)
    flat[scores.flatten().argsort(dim=0, stable=True)[: last - first]] = True
    gone = flat.reshape(scores.shape)
    return gone.repeat_interleave(ROWS, 0)[:rows] if pattern == "4x1" else gone


def _of_group(part: Tensor, own: Tensor, unit: slice, keep: int) -> Tensor:
    """Return which weights ``[rows, columns]`` of an N:M group go."""
    saliency = (part / own.diagonal()[unit]).square()
    gone = torch.ones(part.shape, dtype=torch.bool)
    best = saliency.argsort(dim=1, descending=True, stable=True)[:, :keep]
    return gone.scatter_(1, best, False)


def _damped(moments: Tensor) -> Tensor:
    power = float(moments.diagonal().mean())
    return moments + (DAMPING * power or 1.0) * torch.eye(len(moments), dtype=moments.dtype)


def _inverse_factor(moments: Tensor) -> Tensor:
    """Return the upper factor ``U`` of ``H^-1 = U^T U``; row j has column j's inverse Hessian."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(moments)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _as_weight(matrix: Tensor, weight: Tensor, order: Tensor) -> Tensor:
    """Return a matrix with columns in ``order`` in the shape of ``weight``."""
    columns = torch.empty_like(matrix).index_copy_(1, order, matrix)
    if weight.dim() == 2:
        return columns
    by_position: Tensor = columns.unflatten(1, (-1, weight.shape[1]))
    return by_position.transpose(1, 2).reshape(weight.shape)


second_order = Criterion(
    _saliency, frozenset({"moments"}), side="uses", within_rows=True, prune=_prune
)
