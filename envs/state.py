"""What a walk's state holds, what its action means, and within which bounds: AMC's conventions.

Paper and released code (He et al., ECCV 2018, arXiv:1802.03494; mit-han-lab/amc) differ in the
state. Both act on a layer's input channels; most later work acts on output channels. The sites, and
so the plans that can be reached, are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from amc.errors import InputError
from amc.sites import LayerShape, Site

DECISIONS: Final = {
    "reduced": "budgeted cost saved by the decisions so far, the rest dense; fraction of dense",
    "rest": "budgeted cost that the sites after this one can still save; fraction of dense",
    "previous": "keep ratio executed at the site before; 1 at the first site",
}

FEATURES: Final = {
    "t": "position of the site in the walk; index, min-max over the sites",
    "n": "output channels of the site's layer; channels, min-max over the sites",
    "c": "input channels of that layer; channels, min-max over the sites",
    "h": "height of its feature map; pixels, min-max over the sites",
    "w": "width of its feature map; pixels, min-max over the sites",
    "stride": "its stride; pixels, min-max over the sites",
    "k": "its kernel size; pixels, min-max over the sites",
    "flops": "its MACs for one example, dense, where an action decides a layer's output with those "
    "of all layers coupled to it; min-max over the sites",
    **DECISIONS,
}
"""The eleven features of the paper (equation 1), in order: what each is, its unit, how it is
brought to [0, 1].

The published ``reduced`` and ``rest`` count MACs of layers. Here they are differences of whole
plans' costs in the budget's own unit, because a latency table has no cost of a layer by itself.
Columns that are equal for all sites are 0.
"""

RELEASED_FEATURES: Final = {
    "index": "position of the site in the walk; index, min-max over the sites",
    "type": "0 for a convolution, 1 for a linear layer; min-max over the sites",
    "in_ch": "input channels of the site's layer; channels, min-max over the sites",
    "out_ch": "its output channels; channels, min-max over the sites",
    "stride": "its stride, 0 for a linear layer; pixels, min-max over the sites",
    "kernel": "its kernel size, 1 for a linear layer; pixels, min-max over the sites",
    "weights": "the length of its weight, dense; numbers, min-max over the sites",
    **DECISIONS,
}
"""The ten features of the released code, in order.

``reduced`` and ``rest`` are as in ``FEATURES``: the code's ``rest`` is the cost of all later
layers, of which a part can never be saved.
"""

STATES: Final = {"paper": FEATURES, "released": RELEASED_FEATURES}
ACTIONS: Final = ("output", "input")


@dataclass(frozen=True)
class Convention:
    """What a walk's state and action mean.

    ``state``: ``paper`` (11 features) or ``released`` (10). ``action``: with ``output`` an action
    in [0, 1] decides the output channels of the site's own layer, from the narrowest legal width
    (0) to the widest (1). With ``input``, as published, it is the keep ratio of the input channels
    of the layer that uses them first, and the features are that layer's; at a site that decides on
    weights it is the fraction of them that stays. ``lower_bound`` and
    ``upper_bound`` are keep ratios that no site leaves, if it has a legal width between them; else
    its narrowest width above the lower bound stands. Raises ``InputError`` for bounds or words that
    make no sense.
    """

    state: str = "paper"
    action: str = "output"
    lower_bound: float = 0.0
    upper_bound: float = 1.0

    def __post_init__(self) -> None:
        for field, value, known in (
            ("state", self.state, tuple(STATES)),
            ("action", self.action, ACTIONS),
        ):
            if value not in known:
                raise InputError(f"{field} must be one of {', '.join(known)}, but got {value!r}")
        if not 0.0 <= self.lower_bound <= self.upper_bound <= 1.0 or self.upper_bound == 0.0:
            raise InputError(
                f"lower_bound {self.lower_bound:g} and upper_bound {self.upper_bound:g} must be "
                "keep ratios, the lower one no larger; change one of them"
            )

    @property
    def features(self) -> dict[str, str]:
        """What the state holds, in order, each with its meaning and unit."""
        return STATES[self.state]

    @property
    def action_range(self) -> tuple[float, float]:
        """The actions that differ in meaning: those outside are cut to it."""
        return (self.lower_bound, self.upper_bound) if self.action == "input" else (0.0, 1.0)

    def widths(self, site: Site) -> tuple[int, ...]:
        """Return the legal widths of ``site`` within the bounds, ascending, at least one.

        The bounds are of channels alone.
        """
        if site.decides != "channels":
            return site.widths
        low, high = (b * site.full for b in (self.lower_bound - 1e-9, self.upper_bound + 1e-9))
        within = tuple(w for w in site.widths if low <= w <= high)
        return within or (next(w for w in site.widths if w >= low),)

    def static(self, sites: Sequence[Site]) -> NDArray[np.float64]:
        """Return ``[L, features - 3]``: what no decision changes, min-max over the sites."""
        rows = [self._row(t, site) for t, site in enumerate(sites)]
        raw = np.asarray(rows, dtype=np.float64)
        low, high = raw.min(axis=0), raw.max(axis=0)
        return np.asarray((raw - low) / np.where(high > low, high - low, 1.0))

    def _row(self, t: int, site: Site) -> tuple[int, ...]:
        layer = self._layer(site)
        if self.state == "paper":
            return (
                *(t, layer.c_out, layer.c_in, layer.height, layer.width),
                *(layer.stride, layer.kernel_size, layer.macs),
            )
        linear = layer.kind == "linear"
        return (
            *(t, int(linear), layer.c_in, layer.c_out, 0 if linear else layer.stride),
            *(1 if linear else layer.kernel_size, layer.weights),
        )

    def _layer(self, site: Site) -> LayerShape:
        """Return the layer that the state describes: the one whose channels the action decides."""
        if self.action == "output" or site.decides != "channels":
            return site.producer
        if site.consumer is None:
            raise InputError(
                f"action 'input' needs a layer that uses the channels of site {site.name!r}, and "
                "none is known; choose 'output'"
            )
        return site.consumer
