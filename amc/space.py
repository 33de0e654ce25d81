"""What the core needs of a search space; ``search_spaces`` has the implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from amc.coupling import ChannelGroup
from amc.plan import Plan
from amc.sites import Site


class SearchSpace(Protocol):
    """The ordered sites of one network, and the way from choices to a plan."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The decisions, in order of execution."""
        ...

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """What each site that decides on channels decides on, in the order of these sites."""
        ...

    @property
    def excluded(self) -> Mapping[str, str]:
        """Why each other layer is left alone."""
        ...

    @property
    def orders(self) -> Mapping[str, tuple[int, ...]]:
        """Each site's channels by the dense network's weights, the most important first.

        The plans of ``plan(widths)`` keep the first so many.
        """
        ...

    def plan(
        self,
        widths: Sequence[int],
        weights: Mapping[str, Tensor] | None = None,
        within: Plan | None = None,
    ) -> Plan:
        """Return the plan of given widths, chosen by the importance of ``weights``."""
        ...
