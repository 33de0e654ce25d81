"""What ``amc inspect`` shows of a network before anything is searched."""

from __future__ import annotations

from typing import Any

from amc.cost import BUDGET_KEYS, cost_of, smallest_cost
from amc.network_cost import NetworkCostModel
from amc.space import SearchSpace
from amc.task import LoadedTask


def inspection(
    task: LoadedTask, space: SearchSpace, model: NetworkCostModel, batch_size: int
) -> dict[str, Any]:
    """Return sites, coupling, dense costs, and the smallest reachable fraction of every budget."""
    widths = [site.full for site in space.sites]
    dense = cost_of(model, widths)
    return {
        "task": task.name,
        "backend": model.table.backend,
        "batch_size": batch_size,
        "sites": [
            {
                "name": site.name,
                "decides": site.decides,
                "kind": site.kind,
                "channels": site.channels,
                "unit": site.unit,
                "kernel_size": site.kernel_size,
                "stride": site.stride,
                "output": [site.height, site.width],
                "macs": site.macs,
                "widths": list(site.widths),
                "patterns": {str(width): how for width, how in site.patterns.items()},
                "layers": list(site.layers),
            }
            for site in space.sites
        ],
        "excluded": dict(space.excluded),
        "dense": dense.as_report(),
        "layer_latency_s": model.layer_latencies(widths),
        "smallest": {
            key: smallest_cost(model, space.sites, field) / getattr(dense, field)
            for key, field in BUDGET_KEYS.items()
        },
    }
