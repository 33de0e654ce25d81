"""The configuration of a search: a YAML file, checked before anything starts."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from amc.config_identity import identity
from amc.config_sections import (
    AgentName,
    LatencyConfig,
    Name,
    ObjectiveConfig,
    PathText,
    RacingConfig,
    RecoveryName,
    ScoreName,
    Section,
    ShortTermConfig,
    SitesConfig,
    TaskName,
)
from amc.cost import BUDGET_KEYS
from amc.errors import InputError
from amc.invalid import explain
from amc.plan import digest
from amc.printable import dotted, shown
from amc.registry import nearest
from amc.store_uri import parts
from amc.strict_json import Limits, check_plain
from amc.strict_yaml import parse_yaml

DEEPEST = 8  # parts of a dotted key
MANY = 2**31 - 1  # images or steps
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
OPTIONS = Limits(values=200, depth=4, text=200, remedy="leave it out or write a plain value")


class SearchConfig(Section):
    """Everything that a search depends on. Each field is a key of the YAML file."""

    task: TaskName
    space: Name = "channel"
    sites: SitesConfig = SitesConfig()
    budget: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(max_length=100)
    objective: ObjectiveConfig = ObjectiveConfig()
    evaluations: int = Field(60, ge=1, le=1_000_000)
    walks: int = Field(4, ge=1, le=1024)
    horizon: int | None = Field(None, ge=1, le=1_000_000)
    agents: dict[AgentName, dict[str, Any]] = Field(max_length=100)
    seeds: tuple[Seed, ...] = Field((0,), max_length=1000)
    recovery: RecoveryName = "batch_norm"
    short_term: ShortTermConfig = ShortTermConfig()
    latency: LatencyConfig = LatencyConfig()
    data: Literal["pack", "full"] = "pack"
    data_folder: PathText | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    # Beyond the common keys:
    search_images: int | None = Field(None, ge=1, le=MANY)  # only the first so many; null: all
    calibration_images: int = Field(1000, ge=1, le=MANY)
    batch_norm_images: int | None = Field(
        None, ge=1, le=MANY
    )  # of those, for statistics; null: all
    fold_batch_norm: bool = True  # before scoring; equal but for rounding
    cache: bool = True  # equal plans are scored once
    score: ScoreName = "task"
    evaluation_steps: int = Field(0, ge=0, le=MANY)  # of short_term, before a plan is scored
    racing: RacingConfig | None = None  # true: with its defaults; false: null
    fast_scoring: bool = True  # amc.scoring's own forward pass; equal but for rounding
    finetune_steps: int = Field(120, ge=0, le=MANY)  # the short fine-tuning after the search
    workers: int | None = Field(None, ge=0, le=1024)  # null: one a core; 0: in process
    attempts: int = Field(6, ge=1, le=100)  # of an evaluation whose workers die
    evaluation_timeout_s: float | None = Field(None, gt=0, le=1e6)  # null: none
    infeasible_reward: float | None = Field(None, ge=-1e6, le=1e6)  # null: that of score 0
    tracking_uri: PathText | None = (
        None  # null: MLFLOW_TRACKING_URI, else a database beside the runs
    )
    experiment: Name = "amc"

    @field_validator("budget")
    @classmethod
    def _one_budget(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if key not in BUDGET_KEYS:
                known = ", ".join(BUDGET_KEYS)
                hint = nearest(key[:100], list(BUDGET_KEYS)) or ";"
                raise ValueError(
                    f"budget.{dotted([key])} is not a known budget{hint} Known: {known}"
                )
        if len(value) != 1:
            known = ", ".join(BUDGET_KEYS)
            raise ValueError(f"budget {shown(value)} must name exactly one of {known}; choose it")
        return value

    @field_validator("racing", mode="before")
    @classmethod
    def _racing_or_not(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("agents", mode="before")
    @classmethod
    def _listed_agents(cls, value: Any) -> Any:
        """Accept a list of names, and ``null`` for an agent without options."""
        if isinstance(value, list):
            _check_names(value)
            return {name: {} for name in value}
        if isinstance(value, dict):
            return {name: options or {} for name, options in value.items()}
        return value

    @field_validator("agents")
    @classmethod
    def _some_agents(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not value:
            raise ValueError("agents {} must name at least one agent; add one such as ddpg: {}")
        for name, options in value.items():
            check_plain(options, f"agents.{name}", OPTIONS)
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(
                f"seeds {shown(list(value))} must list at least one seed, and each once; "
                "list others"
            )
        return value

    @field_validator("tracking_uri", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @field_validator("tracking_uri")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        if value is not None and parts(value).secrets:
            raise ValueError(
                "tracking_uri holds a user name or password, which run folders would keep; leave "
                "them out of it and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "all of it as MLFLOW_TRACKING_URI"
            )
        return value

    @model_validator(mode="after")
    def _racing_or_training(self) -> SearchConfig:
        if self.racing is not None and self.evaluation_steps:
            raise ValueError(
                f"evaluation_steps {self.evaluation_steps} and racing exclude each other: plans "
                "that are fine-tuned first are scored on all images; leave one out"
            )
        return self

    @field_validator("experiment")
    @classmethod
    def _no_path(cls, value: str) -> str:
        if value in {".", ".."} or "/" in value or "\\" in value:
            raise ValueError(f"experiment {shown(value)} must be a name without slashes; change it")
        return value

    @field_validator("device")
    @classmethod
    def _device_there(cls, value: str) -> str:
        if value == "cuda":
            raise ValueError("device 'cuda' is not built yet; use 'cpu'")
        return value

    @property
    def digest(self) -> str:
        """The digest of every key but those that may differ between equal runs."""
        return digest(identity(self))


def changed(
    raw: dict[str, Any],
    overrides: list[str] | None = None,
    task: str | None = None,
    agents: list[str] | None = None,
    seed: int | None = None,
    workers: int | None = None,
) -> SearchConfig:
    """Return the configuration ``raw``, read from YAML, as the command line changes it.

    ``overrides`` are ``"a.b=value"`` with the value read as YAML; ``agents`` keeps only these (an
    agent that ``raw`` lacks comes without options). Raises ``InputError`` for anything unknown.
    """
    raw = copy.deepcopy(raw)
    for override in overrides or []:
        _override(raw, override)
    for key, value in (("task", task), ("workers", workers)):
        if value is not None:
            raw[key] = value
    if seed is not None:
        raw["seeds"] = [seed]
    if agents is not None:
        try:
            _check_names(agents)
        except ValueError as error:
            raise InputError(str(error)) from error
        listed = raw.get("agents") or {}
        options = listed if isinstance(listed, dict) else {}
        raw["agents"] = {name: options.get(name) or {} for name in agents}
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> SearchConfig:
    """Return the checked configuration of a mapping; ``InputError`` names each refused field."""
    try:
        return SearchConfig(**raw)
    except ValidationError as error:
        raise InputError(explain(error, SearchConfig)) from error
    except TypeError as error:
        raise InputError(
            f"the configuration's keys must be names ({error}); rename them"
        ) from error


def _check_names(names: list[Any]) -> None:
    """Raise ``ValueError`` unless these are names of agents, at least one, and each once."""
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"agents {shown(names)} must name at least one agent; write such as 'ddpg,uniform'"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"agents {shown(names)} must name each agent once; seeds repeat a search")


def _override(raw: dict[str, Any], override: str) -> None:
    name = f"--set {shown(override)}"
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not path.isprintable() or not all([*parents, last]) or len(parents) >= DEEPEST:
        raise InputError(f"{name} must read key=value; write it such as budget.macs=0.5")
    place = raw
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"{name}: {shown(parent)} holds no keys; name a section")
        place = inner
    if path.startswith("budget."):
        place.clear()  # one budget at a time
    place[last] = parse_yaml(text, name)
