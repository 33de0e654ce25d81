"""Going on with a run to more evaluations: which agents grow, and who cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amc.config import SearchConfig
from amc.errors import InputError
from amc.reporting import Reporter


def grown(config: SearchConfig, evaluations: int) -> dict[str, Any]:
    """Return the keys with which every agent goes on to ``evaluations``, at the horizon it had.

    Raises ``InputError`` for fewer than the run has.
    """
    if evaluations < config.evaluations:
        raise InputError(
            f"evaluations {evaluations} is below the run's {config.evaluations}; a run can only "
            "grow"
        )
    agents = {}
    for name, options in config.agents.items():
        own = options.get("evaluations", evaluations)
        more = {"evaluations": evaluations, "horizon": options.get("horizon", own)}
        agents[name] = {**options, **more} if own < evaluations else options
    return {"evaluations": evaluations, "agents": agents}


def say_who_did_not_grow(
    config: SearchConfig, evaluations: int, rows: Sequence[Mapping[str, Any]], reporter: Reporter
) -> None:
    """Name the searches that made fewer than ``evaluations``, and why.

    Those that failed say so themselves.
    """
    for row in rows:
        if row["failure"]:
            continue
        name, made = row["agent"], row["evaluations"]
        own = config.agents[name].get("evaluations", evaluations)
        if own > evaluations:
            reporter.message(
                f"{name} seed {row['seed']} does not grow: agents.{name}.evaluations is {own} "
                f"already, above {evaluations}"
            )
        elif made < evaluations:
            reporter.message(
                f"{name} seed {row['seed']} does not grow: it ends by itself, after {made} "
                f"evaluation{'s' if made > 1 else ''}"
            )
