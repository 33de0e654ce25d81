"""The short way of a call, counted, and switched off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amc.kernels import calls


class Short:
    """Counts the calls that were answered without another look."""

    def __init__(self) -> None:
        self.calls = 0

    def taken(self, layer: nn.Module, x: Tensor) -> bool:
        """Return whether ``layer(x)`` was."""
        before = self.calls
        layer(x)
        return self.calls > before


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Short:
    """Count, and fill every output of such a call with NaN before the kernel writes it."""
    if calls.TensorGuards is None:
        pytest.skip("this torch has no comparison of many tensors at once")
    counter, empty = Short(), calls.empty_strided_cpu

    def counted(*args: Any) -> Tensor:
        counter.calls += 1
        y: Tensor = empty(*args)
        return y.fill_(torch.nan)

    monkeypatch.setattr(calls, "empty_strided_cpu", counted)
    return counter


@pytest.fixture(params=["short", "long"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test with and without the short way: what holds must hold on both."""
    if request.param == "long":
        monkeypatch.setattr(calls, "TensorGuards", None)
    elif calls.TensorGuards is None:
        pytest.skip("this torch has no comparison of many tensors at once")
    return iter([None])
