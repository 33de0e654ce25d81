"""From a configuration to the parts of a search: task, space, costs, budget, agents, environment.

With ``amc.app``, the composition root: what the registries name is put together here.
"""

from __future__ import annotations

import inspect as python_inspect
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agents import AGENTS
from amc.code_digest import code_digest
from amc.config import SearchConfig, changed, parse_config
from amc.cost import cost_of, make_budget
from amc.coupling import ChannelGroup
from amc.criteria import CRITERIA
from amc.criteria.chosen import of_channels
from amc.data import Data
from amc.errors import InputError
from amc.evaluators import ScoringEvaluator
from amc.layer_statistics import Statistics
from amc.machine import machine_facts
from amc.pricing import cost_model
from amc.printable import dotted, shown
from amc.registry import lookup, nearest
from amc.reporting import Reporter, SilentReporter
from amc.scores import check_score
from amc.search_run import SearchMethod
from amc.session import Session
from amc.space import SearchSpace
from amc.strict_yaml import read_yaml
from amc.task import LoadedTask, load_task
from amc.workers import InProcess
from amc.zoo import ZOO
from search_spaces import SEARCH_SPACES
from search_spaces.channel import ChannelSpace

if TYPE_CHECKING:
    from envs.pruning import PruningEnv

MOST_EVALUATIONS = 1_000_000
# What decides, with all that it imports, what evaluations come to: scores, costs, plans, and order.
EVALUATIONS = (
    *("amc.worker", "amc.evaluators", "amc.session", "amc.search_run"),
    *("amc.network_cost", "amc.error_curves", "amc.latency.table"),
)
SCORING = Path(__file__).parent / "scoring" / "csrc"
OF_THE_SEARCH = ("evaluations", "horizon")  # options of every agent that are not its constructor's


def load_config(
    source: str,
    overrides: list[str] | None = None,
    *,
    task: str | None = None,
    agents: list[str] | None = None,
    seed: int | None = None,
    workers: int | None = None,
) -> SearchConfig:
    """Return the configuration of a YAML file, or the default one for a task's name.

    ``overrides`` are ``"a.b=value"``; the other arguments replace the file's.
    """
    raw: dict[str, Any] = {"task": source, "budget": {"macs": 0.5}, "agents": {"ddpg": {}}}
    if Path(source).is_file() or not (source in ZOO or ":" in source):
        raw = read_yaml(Path(source), "config")
    config = changed(raw, overrides, task, agents, seed, workers)
    for name in config.agents:
        lookup(AGENTS, name, "agents")
    return config


def prepare(config: SearchConfig, reporter: Reporter) -> tuple[Session, Data | None]:
    """Return what all searches of a run share, and apart from it the test split."""
    torch.set_num_threads(1)
    task = load_task(config.task, config.data, config.data_folder)
    check_score(task, config.score, racing=config.racing is not None)
    space = make_space(config, task)
    model = cost_model(task, space, config.latency, reporter)
    dense = [site.full for site in space.sites]
    ((key, fraction),) = config.budget.items()
    session = Session(
        config=config,
        task=replace(
            task.without_test, search=task.search[: config.search_images or len(task.search)]
        ),
        space=space,
        cost_model=model,
        table=model.table,
        budget=make_budget(key, fraction, model, space.sites),
        dense_cost=cost_of(model, dense),
    )
    return session, task.test


def make_space(config: SearchConfig, task: LoadedTask) -> SearchSpace:
    """Return the configured search space of a task's network."""
    space_class = lookup(SEARCH_SPACES, config.space, "space")
    own = python_inspect.signature(space_class.of).parameters
    known = [option for option in type(config.sites).model_fields if option in own]
    for option in config.sites.given():
        if option not in known:
            raise InputError(
                f"sites.{option} is no option of space {config.space!r}, which has "
                f"{', '.join(known)}; leave it out or choose another space"
            )
    options: dict[str, Any] = {option: getattr(config.sites, option) for option in known}
    if "calibration" in own:
        options["calibration"] = task.train[: config.calibration_images].channels_last()
    space: SearchSpace = space_class.of(task.network, task.inputs, **options)
    return space


def make_agent(name: str, options: dict[str, Any]) -> SearchMethod:
    """Return the agent ``name`` with ``options``; ``InputError`` for one that it does not have."""
    agent_class = lookup(AGENTS, name, "agents")
    known = list(python_inspect.signature(agent_class).parameters)
    for key in OF_THE_SEARCH:
        count = options.get(key, 1)
        whole = isinstance(count, int) and not isinstance(count, bool)
        if not whole or not 1 <= count <= MOST_EVALUATIONS:
            raise InputError(
                f"agents.{name}.{key} must be a whole number above 0, at most {MOST_EVALUATIONS}, "
                f"but got {shown(count)}; change it"
            )
    own = {key: value for key, value in options.items() if key not in OF_THE_SEARCH}
    for key in own:
        if key not in known:
            raise InputError(
                f"agents.{name}.{dotted([key])} is not a known option"
                f"{nearest(key[:100], known) or ';'} Known: {', '.join([*OF_THE_SEARCH, *known])}"
            )
    agent: SearchMethod = agent_class(**own)
    return agent


def journal_facts(session: Session) -> dict[str, dict[str, Any]]:
    """Return by agent what a journal depends on: the session's facts, the machine and the code.

    Of a user's own task the file of its factory counts as well.
    """
    space, criteria = SEARCH_SPACES[session.config.space], [*CRITERIA.values()]
    evaluations = [*EVALUATIONS, *map(_module, [space, *criteria])]
    factory, colon, _ = session.config.task.partition(":")
    own = getattr(sys.modules.get(factory), "__file__", None)
    files = [*sorted(SCORING.iterdir()), *([Path(own)] if colon and own else [])]
    common, digest = {**session.facts, "machine": machine_facts()}, code_digest(evaluations, files)
    return {
        name: {
            **common,
            "code": {"agent": _code_of_agent(name), "evaluations": digest},
        }
        for name in session.config.agents
    }


def _code_of_agent(name: str) -> str:
    """Return the digest of an agent's code, and the versions of libraries of its own behind it."""
    packages = getattr(lookup(AGENTS, name, "agents"), "packages", ())
    versions = (f"{package} {version(package)}" for package in packages)
    return ", ".join([code_digest([_module(AGENTS[name])]), *versions])


def _module(entry: str) -> str:
    return entry.partition(":")[0]


def check_agents(session: Session) -> None:
    """Let the agents refuse before anything is evaluated."""
    for name, options in session.config.agents.items():
        make_agent(name, options).check(session.unevaluated_task(name))


def frozen(config: SearchConfig) -> SearchConfig:
    """Return ``config`` with its horizon laid down."""
    if config.horizon is not None:
        return config
    return config.model_copy(update={"horizon": config.evaluations})


def make_env(
    config: str = "digits", convention: dict[str, Any] | None = None, **overrides: Any
) -> PruningEnv:
    """Return the environment of a search, evaluated in process: ``gymnasium.make`` calls this.

    ``config`` is a YAML file or a task's name; ``overrides`` replace keys of it, such as
    ``budget={"macs": 0.5}``; ``convention`` has fields of ``envs.state.Convention``. Nothing is
    written to disk but the cached latency table.
    """
    from envs.pruning import PruningEnv
    from envs.state import Convention

    base = load_config(config).model_dump(mode="json")
    session, _ = prepare(frozen(parse_config({**base, **overrides})), SilentReporter())
    scoring = ScoringEvaluator(InProcess(session.job()), session.pricing())
    evaluator = session.racing(scoring, scoring)
    task = session.search_task(
        next(iter(session.config.agents)),
        0,
        evaluator,
        lambda widths, _: session.plan(widths),
    )
    task.evaluations = sys.maxsize  # whoever made the environment decides when to stop
    return PruningEnv(task, Convention(**(convention or {})))


def channel_importance(
    task: LoadedTask, groups: list[ChannelGroup], criterion: str, calibration: Data
) -> Mapping[str, torch.Tensor]:
    """Return the ``criterion``'s score of every channel of ``groups``, ``[channels]`` by name."""
    of_channels(criterion, "criterion")
    weights, statistics = dict(task.network.state_dict()), Statistics(task.network, calibration)
    return ChannelSpace((), tuple(groups), {}, criterion, weights, statistics).importance()
