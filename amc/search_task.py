"""``SearchTask``: all that an agent may see of a search."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from amc.cost import Budget, Cost, CostModel, cost_of, width_costs
from amc.errors import BudgetSpent, InputError
from amc.evaluation import Evaluation, Evaluator, Request, best_of
from amc.plan import Plan
from amc.reconstruction.curves import ErrorCurves
from amc.sites import Site

# (widths of every site, digest of the request whose weights decide which channels stay or None)
PlanMaker = Callable[[Sequence[int], str | None], Plan]


@dataclass
class SearchTask:
    """Sites, costs, budget, seed, and ``evaluate``. No data, no weights, no test split.

    ``horizon`` is the number of evaluations that schedules are laid out for, frozen when the run
    was created; ``evaluations`` is where the search ends, and may grow later. ``walks`` is the
    number of plans a batch. ``wall`` says whether the objective needs every plan to be within the
    budget. ``fine_tune`` is how many steps of training precede the score of a plan. ``notify``
    shows a person one sentence, and changes nothing. ``history`` lists every evaluation so far.
    ``family`` is for methods whose results are a family along the trade-off: they append its
    members' evaluations, in order, and each becomes a plan of its own.
    """

    sites: tuple[Site, ...]
    cost_model: CostModel
    budget: Budget
    evaluator: Evaluator
    plan_maker: PlanMaker
    seed: int
    evaluations: int
    horizon: int
    walks: int = 1
    wall: bool = True
    fine_tune: int = 0
    notify: Callable[[str], None] = lambda message: None
    on_batch: Callable[[list[Evaluation]], None] = lambda batch: None
    curve_maker: Callable[[], ErrorCurves] | None = None
    history: list[Evaluation] = field(default_factory=list)
    family: list[Evaluation] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """The number of evaluations left."""
        return self.evaluations - len(self.history)

    @property
    def dense_widths(self) -> tuple[int, ...]:
        """Every site at its full width."""
        return tuple(site.full for site in self.sites)

    @property
    def smallest_widths(self) -> tuple[int, ...]:
        """Every site at its smallest legal width."""
        return tuple(site.widths[0] for site in self.sites)

    @property
    def has_error_curves(self) -> bool:
        """Whether there is a network that ``error_curves`` can be taken from."""
        return self.curve_maker is not None

    @property
    def error_curves(self) -> ErrorCurves:
        """What each site loses at each width, without evaluations; the first look takes seconds.

        Raises ``InputError`` where the task has no network to take them from.
        """
        if self.curve_maker is None:
            raise InputError("this task has no network, and so no error curves")
        return self.curve_maker()

    def budget_costs(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the budgeted cost ``[B]`` of candidates ``[B, sites]``, in its own unit."""
        return self.cost_model.costs(widths)[self.budget.field]

    def fits(self, widths: Sequence[int]) -> bool:
        """Return whether one candidate is within the budget."""
        return self.budget.met_by(self.cost(widths))

    def width_costs(
        self, position: int, widths: Sequence[int] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Return every cost at each legal width of one site, the others at ``widths`` or dense.

        By field of ``Cost``; ``latency_s`` stands beside the ``error_curves`` of the same site.
        """
        at = self.dense_widths if widths is None else widths
        return width_costs(self.cost_model, self.sites, position, at)

    def cost(self, widths: Sequence[int]) -> Cost:
        """Return all costs of one candidate."""
        return cost_of(self.cost_model, widths)

    def plan(self, widths: Sequence[int], parent: str | None = None) -> Plan:
        """Return the plan that keeps the most important ``widths[i]`` channels of each site.

        Importance is taken from the trained network's weights, or from those that the request with
        digest ``parent`` left, within the channels that it kept.
        """
        return self.plan_maker(widths, parent)

    def evaluate(self, requests: Sequence[Request | Plan]) -> list[Evaluation]:
        """Return one evaluation a request, in order.

        A plan is scored as the configuration says, a request as it says itself. When fewer
        evaluations remain than are asked for, only the first ones are made and recorded,
        and ``BudgetSpent`` is raised; so it is on any call after that. Global random generators
        come back as they were.
        """
        if self.remaining <= 0:
            raise BudgetSpent
        steps = self.fine_tune or None
        wanted = [r if isinstance(r, Request) else Request(r, finetune=steps) for r in requests]
        with preserved_generators():
            batch = self.evaluator.evaluate(wanted[: self.remaining])
        self.history.extend(batch)
        self.on_batch(batch)
        if len(batch) < len(wanted):
            raise BudgetSpent
        return batch

    def best(self) -> Evaluation | None:
        """Return the best evaluation so far that may be the result, see ``best_of``."""
        return best_of(self.history, self.budget)


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Save the global generators of random, numpy and torch, and put them back at the end."""
    saved = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.random.set_rng_state(saved[2])


def seed_everything(seed: int) -> None:
    """Seed the global generators of random, numpy and torch (stable-baselines3 draws from them)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
