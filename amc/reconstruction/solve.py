"""The algebra: least squares from second moments, nested along an order of the columns.

With ``G = X^T X`` and targets ``X W^T``, the weights on kept columns ``k`` are
``G_kk^-1 G_k: W^T``. With the columns in order of importance and ``G = L L^T``, the first ``k`` of
them have ``L_kk^-T (L^T W^T)_k``, and what remains unexplained is the energy of the rows of
``L^T W^T`` below ``k``: one factor serves every width.

Every column is given independent noise of ``RIDGE`` times its own power, so that dependent and
silent columns have a solution. As the same moments stand on both sides, this pulls towards the
original weights, not towards 0: where all columns stay, so do all weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-8


def regularised(gram: Tensor) -> Tensor:
    """Return moments ``[g, n, n]`` with the ridge added; no column gets less than 1e-6 of the mean.

    So silent columns, which have no power of their own, can be solved for too.
    """
    power = gram.diagonal(dim1=1, dim2=2)
    mean = power.mean(1, keepdim=True)
    least = torch.where(mean > 0, 1e-6 * mean, torch.ones_like(mean))
    return gram + torch.diag_embed(RIDGE * torch.maximum(power, least))


def solve(gram: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """Return the weights ``[g, out, k]`` on the kept ``columns [k]`` (indices).

    ``gram`` is regularised, ``[g, n, n]``; ``weight`` is ``[g, out, n]``.
    """
    block = gram[:, columns[:, None], columns]
    gone = weight.index_fill(2, columns, 0.0)
    missing = gram[:, columns] @ gone.mT
    solved = torch.cholesky_solve(missing, torch.linalg.cholesky(block))
    return weight[..., columns] + solved.mT


def fit(gram: Tensor, cross: Tensor, prior: Tensor) -> tuple[Tensor, int]:
    """Return the weights ``[g, out, n]`` of least error to given targets, near ``prior``.

    Beside them, for how many columns the ridge decides. ``gram`` is ``X^T X``, not regularised;
    ``cross`` is ``X^T Y [g, n, out]``. Where they are not finite, ``prior`` stays, for all columns.
    """
    if not bool(torch.isfinite(gram).all() and torch.isfinite(cross).all()):
        return prior, gram.shape[0] * gram.shape[-1]
    missing = cross - gram @ prior.mT
    lower = torch.linalg.cholesky(regularised(gram))
    return prior + torch.cholesky_solve(missing, lower).mT, dependent_columns(lower)


@dataclass(frozen=True)
class Factor:
    """The solutions for every prefix of ``order [n]``, the same order for each of ``g`` groups.

    ``lower [g, n, n]`` is the Cholesky factor of the moments in that order; ``z = L^T W^T``,
    ``[g, n, out]``.
    """

    order: Tensor
    lower: Tensor
    z: Tensor

    @staticmethod
    def of(gram: Tensor, weight: Tensor, order: Tensor) -> Factor:
        """Return the factor of regularised moments ``[g, n, n]``, weights ``[g, out, n]``."""
        lower = torch.linalg.cholesky(gram[:, order[:, None], order])
        return Factor(order, lower, lower.mT @ weight[..., order].mT)

    def solve(self, count: int, outputs: Tensor) -> Tensor:
        """Return the weights ``[g, outputs, count]`` on the first columns, in ascending order.

        ``outputs`` are indices within a group, the same for all.
        """
        upper = self.lower[:, :count, :count].mT
        known = self.z[:, :count, outputs]
        solved: Tensor = torch.linalg.solve_triangular(upper, known, upper=True)
        return solved[:, self.order[:count].argsort()].mT

    def unexplained(self) -> Tensor:
        """Return the squared error ``[n + 1]`` that is left with the first 0, 1, .. n columns."""
        energy = self.z.square().sum((0, 2))
        return torch.cat([energy.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=energy.dtype)])


def dependent_columns(lower: Tensor) -> int:
    """Return how many columns of a factor ``[.., n, n]`` those before them explain.

    That is, all but 10 times the ridge of their power.
    """
    pivots, power = lower.diagonal(dim1=-2, dim2=-1).square(), lower.square().sum(-1)
    return int((pivots < 10 * RIDGE * power).sum())
