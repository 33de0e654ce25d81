"""The tables of ``amc search --explain`` on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amc.cli.tables import console, new_table, plain
from amc.result_text import MISSING, count, milliseconds, percent

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_WIDTHS = 5  # a site


def show_explanation(result: Mapping[str, Any]) -> None:
    """Print coupling, what every site loses and saves at some of its widths, and the budget."""
    out = console()
    plain(out, f"Task {result['task']}: {len(result['sites'])} sites, nothing searched\n")
    _show_coupling(out, result["sites"])
    _show_curves(out, result["sites"], result["dense"])
    lines = [
        "error: of what the layers that read the site compute, as a share of their outputs' power,",
        f"after least squares on {result['calibration_images']:,} calibration images; "
        "one site narrowed, all else dense.",
        f"pred.: predicted latency of one batch of {result['batch_size']}. Kernel backend: "
        f"{result['backend']}.",
        f"At most {SHOWN_WIDTHS} widths a site are shown; --json has all of them.",
    ]
    for line in lines:
        out.print(line, style="dim")
    for layer, reason in result["excluded"].items():
        plain(out, f"not compressed: {layer}: {reason}")
    for note in result["notes"]:
        plain(out, f"note: {note}")
    _show_budget(out, result["budget"])
    plain(out, f"\nPicture: {result['picture']}")


def _show_coupling(out: Console, sites: Sequence[Mapping[str, Any]]) -> None:
    table = new_table("site", "coupled layers", "shares a layer with")
    for site in sites:
        own = site["coupling"]
        parts = [
            f"{verb} {', '.join(own[role])}"
            for role, verb in (("makes", "made by"), ("passes", "passed by"), ("uses", "read by"))
            if own[role]
        ]
        others = dict.fromkeys(one["site"] for one in site["neighbours"])
        table.add_row(site["name"], "; ".join(parts), ", ".join(others) or MISSING)
    out.print(table)
    for why in dict.fromkeys(why for site in sites for why in site["coupling"]["why"]):
        out.print(f"- {why}", style="dim")
    out.print()


def _show_curves(
    out: Console, sites: Sequence[Mapping[str, Any]], dense: Mapping[str, Any]
) -> None:
    table = new_table("site")
    for name in ("width", "kept %", "error %", "pred.\nms", "saved\nms", "MACs\nsaved", "%"):
        table.add_column(name, justify="right", no_wrap=True)
    for site in sites:
        errors = site["relative_error"] or [None] * len(site["widths"])
        for place, index in enumerate(_spread(len(site["widths"]))):
            width, macs = site["widths"][index], site["macs_saved"][index]
            table.add_row(
                site["name"] if place == 0 else "",
                str(width),
                f"{100 * width / site['channels']:.0f}",
                percent(errors[index]),
                milliseconds(site["predicted_latency_s"][index]),
                milliseconds(site["predicted_latency_saved_s"][index]),
                count(macs),
                f"{100 * macs / dense['macs']:.1f}",
            )
        table.add_section()
    out.print(table)


def _spread(length: int) -> list[int]:
    """Return at most ``SHOWN_WIDTHS`` positions of a list, evenly spread, both ends included."""
    shown = min(SHOWN_WIDTHS, length)
    return [round(i * (length - 1) / max(1, shown - 1)) for i in range(shown)]


def _show_budget(out: Console, budget: Mapping[str, Any]) -> None:
    seconds = budget["key"] == "predicted_latency"

    def amount(value: float) -> str:
        return f"{milliseconds(value)} ms" if seconds else count(value)

    limit, dense, smallest = (amount(budget[name]) for name in ("limit", "dense", "smallest"))
    plain(out, f"\nBudget {budget['key']} {budget['fraction']:g}: {limit} of {dense}.")
    plain(out, f"Smallest reachable: {budget['smallest_fraction']:.3f} of dense, {smallest}.")
    if not budget["reachable"]:
        plain(out, "This budget is OUT OF REACH: raise it, or lower sites.min_keep_ratio.")
