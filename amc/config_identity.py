"""Which keys of a configuration make a run what it is, and in which of them two differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amc.plan import digest
from amc.printable import dotted, shown

if TYPE_CHECKING:
    from amc.config import SearchConfig

# Keys that came later, or did not count at first.
YOUNGER = (
    "cache",
    "evaluation_steps",
    "infeasible_reward",
    "objective",
    "score",
    "racing",
    "short_term",
)
# Keys that a run may change without changing what comes out. Where its latency table came from is
# one of them: the table itself has a digest of its own.
NOT_OF_THE_RESULT: Any = {
    "workers": True,
    "attempts": True,
    "evaluation_timeout_s": True,
    "tracking_uri": True,
    "experiment": True,
    "data_folder": True,
    "latency": {"target"},
}
MAY_CHANGE = ", ".join(key for key, whole in NOT_OF_THE_RESULT.items() if whole is True)
OF_LENGTH = ("evaluations", "horizon")  # of a run, and among the options of every agent
ABSENT = "absent"


def identity(config: SearchConfig) -> dict[str, Any]:
    """Return the keys that count for what comes out, as JSON values.

    Some keys do not count at their default: configurations older than these keep their digest.
    """
    values = config.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
    for key in YOUNGER:
        if getattr(config, key) == type(config).model_fields[key].default:
            del values[key]
    for key in ("weight_criterion", "patterns", "sparsities"):
        if key not in config.sites.given():
            del values["sites"][key]
    return values


def horizon_of(config: SearchConfig, agent: str) -> int:
    """Return the number of evaluations that the schedules of ``agent`` are laid out for."""
    own = config.agents[agent]
    laid_out_for = own.get("evaluations") or config.horizon or config.evaluations
    return int(own.get("horizon") or laid_out_for)


def evaluations_of(config: SearchConfig, agent: str) -> int:
    """Return how many evaluations the agent gets: its own ``evaluations``, or the run's."""
    return int(config.agents[agent].get("evaluations", config.evaluations))


def differing(recorded: SearchConfig, asked: SearchConfig) -> dict[str, tuple[str, str]]:
    """Return the dotted keys that count and are not the same, with both values as text."""
    full = (c.model_dump(mode="json", exclude=NOT_OF_THE_RESULT) for c in (recorded, asked))
    return _unequal(*map(_leaves, full))


def differing_of_search(creation: SearchConfig, run: SearchConfig) -> dict[str, tuple[str, str]]:
    """Return in what a search is no longer the one that was created, as ``differing``.

    ``creation`` is of the one search, ``run`` of all. Its evaluations may have grown, where its
    horizon is as it was.
    """
    (agent,) = creation.agents
    own = {"agents": {agent: run.agents[agent]}, "seeds": creation.seeds}
    before, after = (_of_a_search(c) for c in (creation, run.model_copy(update=own)))
    found = _unequal(before, after)
    its_own = f"agents.{agent}." if set(OF_LENGTH) & set(run.agents[agent]) else ""
    for key, old, new in (
        ("horizon", horizon_of(creation, agent), horizon_of(run, agent)),
        ("evaluations", evaluations_of(creation, agent), evaluations_of(run, agent)),
    ):
        if new < old or (key == "horizon" and new != old):
            found[f"{its_own}{key}"] = str(old), str(new)
    return found


def told(different: Mapping[str, tuple[str, str]], now: str) -> str:
    """Return ``differing`` as a sentence; ``now`` says of the second value what it is."""
    return ", ".join(
        f"{key} is {old} on record and {new} {now}" for key, (old, new) in different.items()
    )


def _of_a_search(config: SearchConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
    for options in (values, *values["agents"].values()):
        for key in OF_LENGTH:
            options.pop(key, None)
    return _leaves(values)


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return nested values by dotted name; a section without keys is one itself."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            leaves.update(_leaves(value, (*above, key)))
        else:
            leaves[dotted((*above, key))] = value
    return leaves


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        key: (_text(old, key), _text(new, key))
        for key in dict.fromkeys([*old, *new])
        if key not in old or key not in new or digest(old[key]) != digest(new[key])
    }


def _text(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else ABSENT
