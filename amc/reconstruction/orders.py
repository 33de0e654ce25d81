"""In which order a search space adds channels as a site gets wider."""

from __future__ import annotations

from amc.space import SearchSpace


def orders_of(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Return each site's channels, the most important first, read off the plans of all widths.

    Channels that one step of widths adds together are in ascending order.
    """
    orders: dict[str, dict[int, None]] = {site.name: {} for site in space.sites}
    for step in range(max(len(site.widths) for site in space.sites)):
        plan = space.plan([site.widths[min(step, len(site.widths) - 1)] for site in space.sites])
        for name, choice in plan.choices.items():
            orders[name].update(dict.fromkeys(choice.kept))
    return {name: tuple(channels) for name, channels in orders.items()}
