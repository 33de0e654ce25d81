"""What ``amc search --explain`` shows: what each site loses and saves at each width, no search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from amc.config import SearchConfig
from amc.cost import BUDGET_KEYS, Cost, cheapest_widths, cost_of, width_costs
from amc.coupling import ChannelGroup, Role
from amc.error_curves import curves_of
from amc.network_cost import NetworkCostModel
from amc.reconstruction.curves import ErrorCurves
from amc.reporting import Reporter
from amc.sites import Site
from amc.space import SearchSpace
from amc.task import LoadedTask

Roles = Set[tuple[str, Role]]  # layers and what they do with a group's channels


def explanation_picture(run_dir: Path | None, task: str) -> Path:
    """Return where the curves are drawn: beside the run folder, which a search makes itself."""
    beside = run_dir or Path("runs") / task.replace(":", "-")
    return beside.absolute().parent / f"{beside.absolute().name}-explain.png"


def explanation(
    config: SearchConfig,
    task: LoadedTask,
    space: SearchSpace,
    model: NetworkCostModel,
    reporter: Reporter,
    picture: Path,
) -> dict[str, Any]:
    """Return budget, dense costs and sites, and draw their curves into ``picture``.

    Each site has lists as long as its ``widths``, for the network with this site alone at that
    width: ``relative_error`` as in ``amc.reconstruction.curves.ErrorCurve`` (``None`` for a site
    without a curve), ``predicted_latency_s`` of one batch, and ``predicted_latency_saved_s``,
    ``macs_saved`` and ``params_saved`` against the dense network. ``coupling`` says which layers
    share its channels and why, ``neighbours`` which sites share a layer with it.
    """
    from amc.explanation_plots import error_and_latency

    calibration = task.train[: config.calibration_images].channels_last()
    criterion = config.sites.weight_criterion
    with reporter.task("gathering moments", len(calibration)) as bar:
        curves, notes = curves_of(task.network, space, calibration, criterion, bar.advance)
    dense = cost_of(model, [site.full for site in space.sites])
    sites = _sites(space, model, curves)
    title = f"{task.name}: error and predicted latency of one site narrowed, all else dense"
    error_and_latency(picture, sites, title)
    return {
        "task": task.name,
        "backend": model.table.backend,
        "batch_size": config.latency.batch_size,
        "threads": config.latency.threads,
        "calibration_images": len(calibration),
        "budget": _budget(config, space.sites, model, dense),
        "dense": dense.as_report(),
        "sites": sites,
        "excluded": dict(space.excluded),
        "notes": [*notes, *_without_curve(space.sites, curves)],
        "picture": str(picture),
    }


def _budget(
    config: SearchConfig, sites: Sequence[Site], model: NetworkCostModel, dense: Cost
) -> dict[str, Any]:
    """Return the budget, and the cheapest plan in its terms, whether it is within it or not."""
    ((key, fraction),) = config.budget.items()
    field = BUDGET_KEYS[key]
    floor = cheapest_widths(model, sites, field)
    whole, least = (float(getattr(c, field)) for c in (dense, cost_of(model, list(floor))))
    return {
        "key": key,
        "fraction": fraction,
        "limit": fraction * whole,
        "dense": whole,
        "smallest": least,
        "smallest_fraction": least / whole,
        "smallest_widths": dict(zip((s.name for s in sites), map(int, floor), strict=True)),
        "reachable": least <= fraction * whole,
    }


def _sites(
    space: SearchSpace, model: NetworkCostModel, curves: ErrorCurves
) -> list[dict[str, Any]]:
    dense = [site.full for site in space.sites]
    found = []
    groups = {group.name: group for group in space.groups}
    for position, site in enumerate(space.sites):
        costs = width_costs(model, space.sites, position, dense)  # the last width is the dense one
        saved = {name: values[-1] - values for name, values in costs.items()}
        known = site.name in curves.sites
        found.append(
            {
                "name": site.name,
                "kind": site.kind,
                "channels": site.channels,
                "widths": list(site.widths),
                "relative_error": [curves.at(site.name, w) for w in site.widths] if known else None,
                "predicted_latency_s": costs["latency_s"].tolist(),
                "predicted_latency_saved_s": saved["latency_s"].tolist(),
                "macs_saved": saved["macs"].astype(int).tolist(),
                "params_saved": saved["params"].astype(int).tolist(),
                **_relations(site, groups),
            }
        )
    return found


def _relations(site: Site, groups: Mapping[str, ChannelGroup]) -> dict[str, Any]:
    """Return a site's ``coupling`` and ``neighbours``; of weights there are none."""
    if site.decides != "channels":
        alone = {"makes": [site.layer], "passes": [], "uses": [], "why": []}
        return {"coupling": alone, "neighbours": []}
    group = groups[site.name]
    return {"coupling": _coupling(group), "neighbours": _neighbours(group, tuple(groups.values()))}


def _coupling(group: ChannelGroup) -> dict[str, Any]:
    """Return the layers that share a group's channels by what they do with them, and why."""
    layers = {
        role: list(dict.fromkeys(m.layer for m in group.members if m.role == role))
        for role in ("makes", "passes", "uses")
    }
    why = []
    if len(layers["makes"]) > 1:
        why.append(
            "the outputs of several layers meet channel by channel, as in a residual sum, so a "
            "channel stays in all of them or in none"
        )
    if layers["passes"]:
        why.append("some layers between hold numbers for every channel, which go with it")
    if layers["uses"]:
        why.append("the layers that read a removed channel lose its input weights")
    return {**layers, "why": why}


def _neighbours(group: ChannelGroup, groups: Sequence[ChannelGroup]) -> list[dict[str, str]]:
    """Return the other groups that share a layer with ``group``, each layer and what it does."""
    own = {(m.layer, m.role) for m in group.members}
    shared = []
    for other in groups:
        theirs = {(m.layer, m.role) for m in other.members if other is not group}
        for layer in dict.fromkeys(m.layer for m in other.members):
            why = _shared(layer, own, theirs)
            if why:
                shared.append({"site": other.name, "layer": layer, "why": why})
    return shared


def _shared(layer: str, own: Roles, theirs: Roles) -> str:
    """Return what a layer has to do with the channels of two groups, nothing if it has not."""
    if (layer, "uses") in own and (layer, "makes") in theirs:
        return "reads this site's channels and makes the other's: its MACs are their product"
    if (layer, "makes") in own and (layer, "uses") in theirs:
        return "makes this site's channels and reads the other's: its MACs are their product"
    if (layer, "uses") in own and (layer, "uses") in theirs:
        return "reads both, side by side"
    if (layer, "makes") in own and (layer, "makes") in theirs:
        return "makes both, side by side"
    return ""


def _without_curve(sites: Sequence[Site], curves: ErrorCurves) -> list[str]:
    missing = [site.name for site in sites if site.name not in curves.sites]
    if not missing:
        return []
    return [f"sites {', '.join(missing)} have no error curve: no layer that reads them is solved"]
