"""``amc import``: a plan from a network that was pruned elsewhere, by masks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save
from torch import Tensor, nn

from amc.config import SearchConfig
from amc.cost import Budget, cost_of
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.files import check_writable, write_together
from amc.masks import load_masked, read_masked, width_and_pattern
from amc.plan import Plan
from amc.plan_file import weights_beside
from amc.plan_record import Dense, Result, plan_record
from amc.plan_scores import scorer
from amc.pricing import cost_model
from amc.reporting import Reporter
from amc.run_folder import Search
from amc.search_run import Found
from amc.session import Session
from amc.space import SearchSpace
from amc.task import LoadedTask
from amc.weights import state_sha256
from amc.worker import Final, state_arrays

AGENT = "imported"
BUDGET = "params"  # all of them: what is imported is not for a budget
Rungs = Mapping[str, Mapping[int, str]]
MakeSpace = Callable[[LoadedTask, Rungs], SearchSpace]


def import_masks(
    config: SearchConfig,
    task: LoadedTask,
    state: Path,
    out: Path,
    make_space: MakeSpace,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write the plan of a masked network to ``out`` and its weights beside it; return what it is.

    ``state`` is the network's ``state_dict`` with the masks of ``torch.nn.utils.prune``. Layers
    without masks stay dense; ``make_space`` returns the space whose layers have the one rung that
    they stand on. Its accuracy is taken as it is, without any recovery; its costs are priced with
    ``config``'s table, densities to a thousandth, and its latency is measured by ``amc evaluate``.
    Raises ``InputError`` for a state that is not of the task's network.
    """
    weights_file = weights_beside(out, "weights")
    check_writable(out, "--out")
    check_writable(weights_file, "--out's weights")
    network = copy.deepcopy(task.network).eval()
    masked = load_masked(network, read_masked(state))
    session = _session(config, task, make_space(task, _rungs(network, masked)), reporter)
    plan = session.plan([site.widths[0] for site in session.space.sites])
    result = _result(session, task, network, plan, out.parent)
    weights = state_arrays(network)
    named = {"file": weights_file.name, "sha256": state_sha256(weights)}
    record = plan_record(session, result, named, None)
    write_together({weights_file: save(weights), out: record.text().encode()})
    cost = result.evaluation.cost
    return {
        "out": str(out),
        "weights": str(weights_file),
        "masked_layers": len(masked),
        "sparse_layers": len(plan.choices),
        "search_accuracy": result.final.searched,
        "test_accuracy": result.final.test_score,
        "macs": cost.macs,
        "params": cost.params,
        "predicted_latency_s": cost.latency_s,
        "dense_predicted_latency_s": session.dense_cost.latency_s,
    }


def _session(
    config: SearchConfig, task: LoadedTask, space: SearchSpace, reporter: Reporter
) -> Session:
    """Return what a search of the space would have, with all parameters for its budget."""
    model = cost_model(task, space, config.latency, reporter)
    dense = cost_of(model, [site.full for site in space.sites])
    return Session(
        config=config,
        task=task.without_test,
        space=space,
        cost_model=model,
        table=model.table,
        budget=Budget(BUDGET, 1.0, dense.params),
        dense_cost=dense,
    )


def _result(
    session: Session, task: LoadedTask, network: nn.Module, plan: Plan, folder: Path
) -> Result:
    """Return the plan with its costs, and ``network`` and the dense one with their scores."""
    space = session.space
    score_of = scorer(session.config, task, space.groups)

    def scores(of: nn.Module) -> tuple[float, float | None]:
        return score_of(of, task.search), None if task.test is None else score_of(of, task.test)

    searched, tested = scores(network)
    widths = [site.width_of(plan.choices[site.name]) for site in space.sites]
    cost = cost_of(session.cost_model, widths)
    evaluation = Evaluation(AGENT, Request(plan), searched, cost, searched)
    return Result(
        Found(Search(AGENT, 0, folder), [evaluation], evaluation, None, 0.0),
        evaluation,
        Final(searched, searched, tested, None, None, None),
        None,
        Dense(*scores(task.network), session.dense_cost, None),
        0 if task.test is None else len(task.test),
    )


def _rungs(network: nn.Module, layers: Sequence[str]) -> dict[str, dict[int, str]]:
    """Return the density, in thousandths, and pattern of the layers that have zeros."""
    found = {}
    for name in layers:
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        if not weight.count_nonzero():
            raise InputError(
                f"the mask of {name!r} keeps none of its {weight.numel()} weights; a plan cannot "
                "leave a layer empty"
            )
        its = width_and_pattern(weight.detach())
        if its is not None:  # a mask may keep all weights of a layer
            found[name] = dict([its])
    if not found:
        raise InputError("the state's masks keep every weight; there is nothing to plan")
    return found
