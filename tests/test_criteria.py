"""Every criterion ranks channels that plainly matter above those that plainly do not."""

from __future__ import annotations

import pytest
import torch

from amc.criteria import CRITERIA
from amc.registry import lookup


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_follow_the_weights(name: str) -> None:
    criterion = lookup(CRITERIA, name, "sites.criterion")
    made, used = torch.rand(6, 9, dtype=torch.float64), torch.rand(6, 4, dtype=torch.float64)
    order = [3, 0, 5, 1, 4, 2]
    for rank, channel in enumerate(order):
        made[channel] *= 10.0**rank
        used[channel] *= 10.0**rank
    scores = criterion([made, made], [used])
    assert scores.shape == (6,)
    assert torch.argsort(scores).tolist() == order
    torch.testing.assert_close(criterion([-made, -made], [-used]), scores)


def test_l1_is_amcs_sum_over_the_consumer() -> None:
    criterion = lookup(CRITERIA, "magnitude_l1", "sites.criterion")
    scores = criterion([torch.full((2, 3), 9.0)], [torch.tensor([[1.0, -2.0], [0.5, 0.5]])])
    assert scores.tolist() == [3.0, 1.0]


def test_l2_is_netadapts_norm_of_the_filter() -> None:
    criterion = lookup(CRITERIA, "magnitude_l2", "sites.criterion")
    scores = criterion([torch.tensor([[3.0, 4.0], [0.0, 2.0]])], [torch.full((2, 3), 9.0)])
    assert scores.tolist() == [5.0, 2.0]
