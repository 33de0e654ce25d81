"""The configuration of a search: a YAML file, checked before anything starts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from amc.config_sections import (
    LatencyConfig,
    Name,
    ObjectiveConfig,
    RacingConfig,
    RecoveryName,
    ScoreName,
    Section,
    ShortTermConfig,
    SitesConfig,
)
from amc.cost import BUDGET_KEYS
from amc.errors import InputError
from amc.invalid import explain
from amc.plan import digest
from amc.registry import nearest


class SearchConfig(Section):
    """Everything that a search depends on. Each field is a key of the YAML file."""

    task: Name
    space: Name = "channel"
    sites: SitesConfig = SitesConfig()
    budget: dict[str, Annotated[float, Field(gt=0, le=1)]]
    objective: ObjectiveConfig = ObjectiveConfig()
    evaluations: int = Field(60, ge=1, le=1_000_000)
    walks: int = Field(4, ge=1, le=1024)
    horizon: int | None = Field(None, ge=1)
    agents: dict[Name, dict[str, Any]]
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0,)
    recovery: RecoveryName = "batch_norm"
    short_term: ShortTermConfig = ShortTermConfig()
    latency: LatencyConfig = LatencyConfig()
    data: Literal["pack", "full"] = "pack"
    data_folder: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    # Beyond the common keys:
    search_images: int | None = Field(None, ge=1)  # only the first so many; null: all
    calibration_images: int = Field(1000, ge=1)
    batch_norm_images: int | None = Field(None, ge=1)  # of those, for statistics; null: all
    fold_batch_norm: bool = True  # before scoring; equal but for rounding
    cache: bool = True  # equal plans are scored once
    score: ScoreName = "task"
    evaluation_steps: int = Field(0, ge=0)  # of short_term, before a plan is scored
    racing: RacingConfig | None = None  # true: with its defaults; false: null
    fast_scoring: bool = True  # amc.scoring's own forward pass; equal but for rounding
    finetune_steps: int = Field(120, ge=0)  # the short fine-tuning after the search
    workers: int | None = Field(None, ge=0)  # null: one a core; 0: in process
    tracking_uri: str | None = None  # null: MLFLOW_TRACKING_URI, else a database beside the runs
    experiment: Name = "amc"

    @field_validator("budget")
    @classmethod
    def _one_budget(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if key not in BUDGET_KEYS:
                known = ", ".join(BUDGET_KEYS)
                hint = nearest(key, list(BUDGET_KEYS))
                raise ValueError(f"budget.{key} is not a known budget{hint} Known: {known}")
        if len(value) != 1:
            raise ValueError(f"budget must name exactly one of {', '.join(BUDGET_KEYS)}")
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
            raise ValueError("agents must name at least one agent")
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"seeds {list(value)} must list at least one seed, and each once")
        return value

    @field_validator("tracking_uri", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

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
            raise ValueError(f"experiment {value!r} must be a name without slashes")
        return value

    @field_validator("device")
    @classmethod
    def _device_there(cls, value: str) -> str:
        if value == "cuda":
            raise ValueError("device 'cuda' is not built yet; use 'cpu'")
        return value

    @property
    def digest(self) -> str:
        """The digest of every key but those that may differ between equal runs.

        Some keys do not count at their default: configurations older than these keep their digest.
        """
        values = self.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
        for key in ("evaluation_steps", "objective", "score", "racing", "short_term"):
            if getattr(self, key) == type(self).model_fields[key].default:
                del values[key]
        for key in ("weight_criterion", "patterns", "sparsities"):
            if key not in self.sites.given():
                del values["sites"][key]
        return digest(values)


# Keys that a run may change without changing what comes out. Where its latency table came from is
# one of them: the table itself has a digest of its own.
NOT_OF_THE_RESULT: Any = {
    "workers": True,
    "tracking_uri": True,
    "experiment": True,
    "data_folder": True,
    "cache": True,
    "latency": {"target"},
}


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
        raise InputError(f"the configuration's keys must be names ({error})") from error


def _check_names(names: list[Any]) -> None:
    """Raise ``ValueError`` unless these are names of agents, at least one, and each once."""
    shown = ",".join(map(str, names))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"agents {shown!r} must name at least one agent, such as 'ddpg,uniform'")
    if len(set(names)) != len(names):
        raise ValueError(f"agents {shown!r} must name each agent once; seeds repeat a search")


class _NoAliases(yaml.SafeLoader):
    """Plain data only: no tags that build objects, no aliases that multiply them."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def load_yaml(path: Path, what: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; ``InputError`` when it is missing or malformed."""
    if not path.is_file():
        raise InputError(f"{what} {str(path)!r} is not a file; check the path")
    if path.stat().st_size > 1_000_000:
        raise InputError(f"{what} {str(path)!r} is larger than 1 MB; that is no {what}")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoAliases)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{what} {str(path)!r} is not readable YAML: {text}") from error
    except RecursionError:
        raise InputError(f"{what} {str(path)!r} is nested too deep; that is no {what}") from None
    if not isinstance(value, dict):
        raise InputError(f"{what} {str(path)!r} must hold keys and values at its top level")
    return value


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError(f"--set {override!r} must read key=value, such as budget.macs=0.5")
    *parents, last = path.split(".")
    place = raw
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override!r}: {parent!r} holds no keys")
        place = inner
    if path.startswith("budget."):
        place.clear()  # one budget at a time
    try:
        place[last] = yaml.load(text, Loader=_NoAliases)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"--set {override!r}: the value is not readable YAML") from error
