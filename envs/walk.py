"""The arithmetic of one walk over the sites: what is seen, what an action means, the budget wall.

Method: AMC (He et al., ECCV 2018, arXiv:1802.03494), sections 3.1-3.3: state ``s_t`` (equation 1),
action ``a_t``, and actions limited by the budget (algorithm 1). Deviations, each on purpose:

- The wall holds for every additive cost and *after* rounding: candidates are whole plans, priced by
  the task's cost model. The published one bounds MACs and is followed by rounding up.
- "Later layers at their cheapest" is a complete plan that is known to fit (the *floor*), not a
  formula, so that coupled sites and tables that are not monotone need no special case.
- By default an action in [0, 1] spans the site's own legal widths and decides *output* channels;
  the published meaning is ``action: input`` of ``envs.state.Convention``.
- Where the objective needs no wall (``SearchTask.wall``), every width within the bounds is open.
- Where sites decide on a layer's channels, on its weights, and on whole blocks, an action has a
  number a kind of decision (``Course.kinds`` names them, in this order). One step takes a layer's
  channels and weights; a block has a step of its own, before the layers in it. Each number spans
  the legal widths of its own site, ascending, as the one action does elsewhere: of a layer's
  weights, from the sparsest rung of its ladder (0) to dense (1); of a block, below the middle it
  goes. A number that no site of the step asks for counts as 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from amc.cost import cheapest_widths
from amc.errors import InputError
from amc.search_task import SearchTask
from amc.sites import Site
from envs.state import Convention

REMEMBERED = 4096  # beginnings of walks
KINDS: Final = ("channels", "weights", "block")  # of decisions, in the order of an action's numbers


class Course:
    """What all walks of a task share: the features that never change, the floor, the limit.

    ``sites`` have the widths within the convention's bounds alone. ``steps`` has the sites of each
    step, ``kinds`` what the numbers of an action decide on. ``floor`` is the cheapest complete plan
    found, ``[sites]`` widths; it fits the budget. Raises ``InputError`` where it does
    not: then no walk could end within the budget.
    """

    def __init__(self, task: SearchTask, convention: Convention | None = None) -> None:
        self.convention = convention = convention or Convention()
        self.sites: tuple[Site, ...] = tuple(
            replace(site, widths=convention.widths(site)) for site in task.sites
        )
        self.legal = tuple(site.widths for site in task.sites)
        self.kinds = tuple(k for k in KINDS if any(site.decides == k for site in self.sites))
        self.steps = steps_of(self.sites)
        self.wall = task.wall
        self.costs = task.budget_costs
        self.within = task.budget.within
        self.dense = np.asarray(task.dense_widths, dtype=np.int64)
        self.dense_cost = float(self.costs(self.dense[None])[0])
        self.floor = cheapest_widths(task.cost_model, self.sites, task.budget.field)
        floor_cost = self.costs(self.floor[None])
        if not self.within(floor_cost)[0]:
            raise InputError(
                f"budget.{task.budget.key} {task.budget.fraction:g} is below the smallest "
                f"reachable {np.ceil(floor_cost[0] / self.dense_cost * 1000) / 1000:g}; raise it "
                f"or lower {'lower_bound' if convention.lower_bound else 'sites.min_keep_ratio'}"
            )
        self.low = np.asarray([s.widths[0] / s.full for s in self.sites])
        self.high = np.asarray([s.widths[-1] / s.full for s in self.sites])
        self.static = convention.static(self.sites)
        self.rest = self._rest()
        # An episode is drawn before it is walked, and walks begin alike: asked for again and again.
        self.fitting = lru_cache(REMEMBERED)(self._fitting)
        self.saved = lru_cache(REMEMBERED)(self._saved)

    def _rest(self) -> NDArray[np.float64]:
        """Return ``[L]``: what the sites after each one can save, as a fraction of dense."""
        after = np.triu(np.ones((len(self.sites),) * 2, dtype=bool), k=1)
        costs = self.costs(np.where(after, self.floor, self.dense))
        return np.clip((self.dense_cost - costs) / self.dense_cost, 0.0, 1.0)

    def _fitting(self, decided: tuple[int, ...]) -> NDArray[np.int64]:
        """Return the widths of the next site on the envelope that fit, ascending.

        The envelope leaves out every width that is no cheaper than a wider one, so that costs rise
        with width and "fits" is a prefix. The cheapest width is always on it. Without a wall, all
        widths are returned.
        """
        t = len(decided)
        widths = np.asarray(self.sites[t].widths, dtype=np.int64)
        if not self.wall:
            return widths
        candidates = np.repeat(self.floor[None], len(widths), axis=0)
        candidates[:, :t] = decided
        candidates[:, t] = widths
        costs = self.costs(candidates)
        wider = np.minimum.accumulate(costs[::-1])[::-1]
        fits = self.within(costs)
        fits[:-1] &= costs[:-1] < wider[1:]
        return widths[fits]

    def _saved(self, decided: tuple[int, ...]) -> float:
        """Return the fraction of the dense cost saved by the decisions so far, the rest dense."""
        widths = self.dense.copy()
        widths[: len(decided)] = decided
        cost = float(self.costs(widths[None])[0])
        return (self.dense_cost - cost) / self.dense_cost

    def requested(self, t: int, action: float) -> float:
        """Return the channels, not rounded, that ``action`` in [0, 1] asks for at site ``t``."""
        channels = self.sites[t].decides == "channels"
        keep_ratio = float(np.clip(action, *(self.convention.action_range if channels else (0, 1))))
        if self.convention.action == "output":
            keep_ratio = self.low[t] + keep_ratio * (self.high[t] - self.low[t])
        return float(keep_ratio * self.sites[t].full)

    def action(self, t: int, width: int) -> float:
        """Return the action in [0, 1] that means exactly ``width``; 1 where there is no choice."""
        keep_ratio = width / self.sites[t].full
        if self.convention.action == "input":
            return float(keep_ratio)
        if self.low[t] >= self.high[t]:
            return 1.0
        action = (keep_ratio - self.low[t]) / (self.high[t] - self.low[t])
        return float(np.clip(action, 0.0, 1.0))

    def check_script(self, widths: Sequence[int]) -> None:
        """Raise ``ValueError`` unless ``widths`` is a legal plan within the budget.

        Legal as the task has it: the convention's bounds are for actions alone.
        """
        for site, legal, width in zip(self.sites, self.legal, widths, strict=True):
            if width not in legal:
                raise ValueError(f"{width} is not a legal width of site {site.name!r}")
        if not self.within(self.costs(np.asarray([widths], dtype=np.int64)))[0]:
            raise ValueError("the widths to follow do not fit the budget")


def steps_of(sites: Sequence[Site]) -> tuple[range, ...]:
    """Return the sites of each step: one, or a layer's channels and weights."""
    starts = [
        t
        for t, site in enumerate(sites)
        if not t
        or (site.layer, site.decides, sites[t - 1].decides)
        != (sites[t - 1].layer, "weights", "channels")
    ]
    return tuple(map(range, starts, [*starts[1:], len(sites)]))


class Walk:
    """One walk: a width a site, in order, that ends within the budget whatever the actions.

    ``script`` is a complete plan to follow instead of the actions (a demonstration). ``widths`` are
    those executed so far, one a decided site.

    Why the finished plan fits, where there is a wall: before every step, the widths decided so far
    and the floor at all other sites fit together. That holds at first, because the floor fits. A
    step only picks among widths with which it holds again, and there is one: the floor's own width,
    or a cheaper one. After the last step no site is left at the floor, and the plan that fits is
    the plan.
    """

    def __init__(self, course: Course, script: Sequence[int] | None = None) -> None:
        if script is not None:
            course.check_script(script)
        self._course = course
        self._script = script
        self._reduced = 0.0
        self.widths: tuple[int, ...] = ()
        self.steps = 0

    def restarted(self) -> Walk:
        """Return this walk at its start, with the same script."""
        return Walk(self._course, self._script)

    @property
    def scripted(self) -> bool:
        """Whether the walk follows a script, whatever the actions."""
        return self._script is not None

    @property
    def position(self) -> int:
        """How many sites are decided."""
        return len(self.widths)

    @property
    def done(self) -> bool:
        """Whether every site is decided."""
        return self.position == len(self._course.sites)

    def observation(self) -> NDArray[np.float32]:
        """Return the state, ``[11]`` or ``[10]`` in [0, 1], in the convention's order.

        After the last step it is the last site's row with nothing left to save.
        """
        t = min(self.position, len(self._course.sites) - 1)
        before = self._course.steps[self.steps - 1] if self.steps else ()
        previous = math.prod(self.widths[i] / self._course.dense[i] for i in before)
        rest = 0.0 if self.done else self._course.rest[self._course.steps[self.steps][-1]]
        tail = np.clip([self._reduced, rest, previous], 0.0, 1.0)
        return np.concatenate([self._course.static[t], tail]).astype(np.float32)

    def wall(self) -> int:
        """Return the largest legal width of the site at hand that still fits."""
        return int(self._course.fitting(self.widths)[-1])

    def step(self, actions: Sequence[float] | NDArray[np.float32]) -> tuple[float, ...]:
        """Take one step with ``actions`` in [0, 1], one a kind; return the executed ones."""
        executed = dict.fromkeys(self._course.kinds, 1.0)
        for site in self._course.steps[self.steps]:
            kind = self._course.sites[site].decides
            executed[kind] = self._decide(float(actions[self._course.kinds.index(kind)]))
        self.steps += 1
        return tuple(executed.values())

    def _decide(self, action: float) -> float:
        """Execute ``action`` in [0, 1] at the site at hand; return the executed action.

        The request is brought under the wall, then to the nearest width on the envelope (the
        narrower of two as near). The executed action is the one that means exactly that width.
        """
        t = self.position
        if self._script is not None:
            width = int(self._script[t])
        else:
            widths = self._course.fitting(self.widths)
            wish = min(self._course.requested(t, action), float(widths[-1]))
            width = int(widths[np.argmin(np.abs(widths - wish))])
        self.widths = (*self.widths, width)
        self._reduced = self._course.saved(self.widths)
        return self._course.action(t, width)
