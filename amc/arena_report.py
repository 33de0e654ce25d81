"""The report of an arena, in Markdown with pictures, from ``arena.json`` alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from amc import arena_plots
from amc.arena_record import Arena
from amc.arena_scores import (
    METRICS,
    Metric,
    by_seed,
    correlations,
    curves_by_evaluations,
    curves_by_seconds,
    equal_time,
    fronts,
    has,
    scores_of,
)
from amc.arena_statistics import Bootstrap, Estimate, paired_difference
from amc.curve_plots import COLOURS
from amc.files import write_json, write_text
from amc.plots import save

HIGHLIGHTED = len(COLOURS)
RANKED_BY: Metric = "search_accuracy"
LONGEST = 64  # characters of a network in the name of a file


def write_report(arena: Arena, out_dir: Path) -> dict[str, Any]:
    """Write ``arena.json``, ``arena.md`` and its pictures into ``out_dir``; return the ranking.

    ``ranking`` has a row an agent that has searched every task, the best first; ``files`` are what
    was written, the report first.
    """
    json_file, report = out_dir / "arena.json", out_dir / "arena.md"
    sections = [_head(arena)]
    rows: list[dict[str, Any]] = []
    figures: dict[str, Figure] = {}
    if agents := arena.labels():
        bootstrap = Bootstrap(scores_of(arena, RANKED_BY, from_dense=True))
        rows = ranking(arena, bootstrap)
        best = [row["agent"] for row in rows][:HIGHLIGHTED]
        figures = _draw(arena, bootstrap, best, agents)
        sections += [_ranked(arena, rows), _by_task(arena), _pairs(arena, best[0])]
    else:
        sections.append("No agent has searched every task yet, so that none is ranked.")
    sections += [_costs(arena), _agreement(arena), _fronts(arena)]
    shown = "\n\n".join(f"![{Path(name).stem}]({name})" for name in figures)
    text = "\n\n".join(section for section in (*sections[:2], shown, *sections[2:]) if section)
    write_json(json_file, arena.model_dump(mode="json"))
    for name, figure in figures.items():
        save(figure, out_dir / name)
    write_text(report, text + "\n")
    files = [str(report), str(json_file), *(str(out_dir / name) for name in figures)]
    return {"ranking": rows, "files": files}


def ranking(arena: Arena, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Return a row an agent, by its average rank."""
    ranks = bootstrap.ranks
    _, timed = equal_time(arena)
    at_equal_time = {} if timed is None else timed.ranks
    rows = []
    for agent in sorted(ranks, key=lambda agent: ranks[agent].value):
        runs = arena.of(agent=agent)
        rows.append(
            {
                "agent": agent,
                "rank": _json(ranks[agent]),
                "from_dense": _json(bootstrap.mean(agent)),
                "rank_at_equal_time": _json(at_equal_time.get(agent)),
                "searches": len(runs),
                "failures": sum(run.failure is not None for run in runs),
                "evaluation_s": float(np.median([run.evaluation_s for run in runs])),
                "agent_s": float(np.median([run.agent_s for run in runs])),
            }
        )
    return rows


def _json(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found.value, "interval": found.interval}


def _head(arena: Arena) -> str:
    lines = [
        f"# Arena {arena.name}",
        f"{len(arena.runs)} searches: {len(arena.agents)} agents on {len(arena.tasks)} tasks. "
        "Searches score on some images of the search split; winners are ranked by their score on "
        "all of it, and were scored on test images once. Intervals are of 95%, by a stratified "
        "bootstrap over seeds (Agarwal et al., NeurIPS 2021); means are interquartile means. A "
        "search without a plan counts as a score of 0.",
    ]
    if arena.missing:
        few = ", ".join(arena.missing[:5])
        lines.append(f"{len(arena.missing)} searches are missing, such as {few}.")
    header = ["task", "network", "budget", "evaluations", "images: search", "of", "test"]
    rows = []
    for task in arena.tasks:
        facts = arena.task_facts[task]
        ((key, fraction),) = facts.budget.items()
        counts = (facts.evaluations, facts.search_images, facts.whole_search_images)
        cells = [task, facts.network, f"{key} {fraction:g}", *counts, facts.test_images]
        dense = (facts.dense_search_accuracy, facts.dense.test_accuracy)
        rows.append([*map(str, cells), *map(_percent, dense)])
    lines.append(_table([*header, "dense: search %", "test %"], rows, left=3))
    machine = arena.provenance.get("machine", {})
    versions = {**machine, "torch": arena.provenance.get("torch"), "isa": None}
    told = ", ".join(f"{key} {value}" for key, value in versions.items() if value is not None)
    lines.append(f"Made with {told}." if told else "")
    if others := arena.provenance.get("mixed"):
        lines.append(f"Not all searches were made alike: {', '.join(map(str, others))}.")
    return "\n\n".join(line for line in lines if line)


def _ranked(arena: Arena, rows: Sequence[Mapping[str, Any]]) -> str:
    times, _ = equal_time(arena)
    told = ", ".join(f"{task} {seconds:.3g} s" for task, seconds in times.items())
    header = ["agent", "average rank", "points from dense", "rank at equal time"]
    cells = [
        [
            row["agent"],
            _estimate(row["rank"], 1, 2),
            _estimate(row["from_dense"], 100, 2),
            _estimate(row["rank_at_equal_time"], 1, 2),
            str(row["searches"]),
            str(row["failures"]),
        ]
        for row in rows
    ]
    text = f"## Ranking, by score on the {METRICS[RANKED_BY]}\n\n"
    text += _table([*header, "searches", "without a plan"], cells)
    if left_out := [agent for agent in arena.agents if agent not in [r["agent"] for r in rows]]:
        text += f"\n\nNot on every task, so not ranked: {', '.join(left_out)}."
    return text + (f"\n\nEqual time is, for each task: {told}." if told else "")


def _by_task(arena: Arena) -> str:
    parts = []
    for metric, told in METRICS.items():
        if not has(arena, metric):
            continue
        bootstrap = Bootstrap(scores_of(arena, metric))
        rows = [
            [agent, *(_mean(bootstrap.task_mean(agent, task)) for task in arena.tasks)]
            for agent in bootstrap.agents
        ]
        parts.append(f"## Accuracy in %, {told}\n\n" + _table(["agent", *arena.tasks], rows))
    return "\n\n".join(parts)


def _pairs(arena: Arena, first: str) -> str:
    """Return the first agent against each other one, seed by seed."""
    rows = []
    for other in (agent for agent in arena.labels() if agent != first):
        cells = []
        for metric in (metric for metric in METRICS if has(arena, metric)):
            ours, theirs = by_seed(arena, first, metric), by_seed(arena, other, metric)
            found = paired_difference(ours, theirs)
            cells.append("-" if found is None else _estimate(_json(found), 100, 2, sign=True))
        rows.append([other, *cells])
    names = [told for metric, told in METRICS.items() if has(arena, metric)]
    title = f"## {first} against the others, seed by seed: points of accuracy above them"
    return f"{title}\n\n{_table(['agent', *names], rows)}" if rows else ""


def _costs(arena: Arena) -> str:
    rows = []
    for agent in arena.agents:
        if not (runs := arena.of(agent=agent)):
            continue
        seconds = (
            np.median([getattr(r, key) for r in runs]) for key in ("evaluation_s", "agent_s")
        )
        counts = (sum(getattr(r, key) for r in runs) for key in ("evaluations", "cached", "shared"))
        rows.append([agent, *(f"{value:.3g}" for value in seconds), *map(str, counts)])
    header = ["agent", "evaluation s", "agent s", "evaluations", "cached", "shared"]
    note = "Seconds are medians over searches. What was shared counts with the seconds it took."
    return f"## What searches cost\n\n{_table(header, rows)}\n\n{note}"


def _agreement(arena: Arena) -> str:
    rows = [
        [told, one.task, str(one.n), f"{one.spearman:.3f}", f"{one.pearson:.3f}"]
        for score, told in (
            ("search_accuracy", "whole search split"),
            ("best", "what the search went by"),
        )
        for one in correlations(arena, score)  # type: ignore[arg-type]
    ]
    if not rows:
        return ""
    title = "## Does the search's score tell the accuracy after fine-tuning?"
    return f"{title}\n\n" + _table(["score on", "task", "n", "Spearman", "Pearson"], rows, left=2)


def _fronts(arena: Arena) -> str:
    rows = [
        [own.network, own.agent, f"{np.median(own.volumes):.3f}", str(len(own.volumes))]
        for own in sorted(fronts(arena), key=lambda own: -float(np.median(own.volumes)))
    ]
    title = "## Fronts of accuracy and predicted latency: hypervolume, median over seeds"
    header = ["network", "agent", "hypervolume", "seeds"]
    return f"{title}\n\n{_table(header, rows, left=2)}" if rows else ""


def _draw(
    arena: Arena, bootstrap: Bootstrap, best: Sequence[str], agents: Sequence[str]
) -> dict[str, Figure]:
    """Return the pictures by the names of their files."""
    tasks, name = arena.tasks, arena.name
    scores = {facts.score for facts in arena.task_facts.values()}
    order = sorted(agents, key=lambda agent: bootstrap.ranks[agent].value)
    wins = np.array([[bootstrap.improvement(a, b).value for b in order] for a in order])
    median = {
        key: np.array(
            [
                np.mean([np.median([getattr(r, key) for r in arena.of(t, a)]) for t in tasks])
                for a in order
            ]
        )
        for key in ("evaluation_s", "agent_s")
    }
    by_evaluations = {task: curves_by_evaluations(arena, task) for task in tasks}
    by_seconds = {task: curves_by_seconds(arena, task) for task in tasks}
    score = "score" if len(scores) > 1 else next(iter(scores))
    figures = {
        "ranks": arena_plots.ranks(f"{name}: ranks", bootstrap.ranks),
        "evaluations": arena_plots.curves(
            f"{name}: best so far", by_evaluations, best, "evaluations", score
        ),
        "seconds": arena_plots.curves(f"{name}: at equal time", by_seconds, best, "seconds", score),
        "improvement": arena_plots.improvement(f"{name}: probability of improvement", order, wins),
        "costs": arena_plots.costs(
            f"{name}: cost of a search", order, median["evaluation_s"], median["agent_s"]
        ),
    }
    if has(arena, "finetuned_test_accuracy"):
        figures["agreement"] = arena_plots.agreement(
            f"{name}: what the search's score tells", arena
        )
    found = fronts(arena)
    for network in dict.fromkeys(own.network for own in found):
        own = [one for one in found if one.network == network]
        title = f"{name}: winners on {network}"
        figures[_front_key(network, figures)] = arena_plots.front(title, own, best)
    return {f"arena_{key}.png": figure for key, figure in figures.items()}


def _front_key(network: str, taken: Collection[str]) -> str:
    """Return what the file of a network's front is named by: no path, and none of ``taken``."""
    key = f"front_{re.sub(r'[^A-Za-z0-9_.-]', '-', network)[:LONGEST]}"
    return key if key not in taken else f"{key}-{len(taken)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table of Markdown, the first ``left`` columns flush left."""
    rule = ["---" if place < left else "---:" for place in range(len(header))]
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(found: Estimate) -> str:
    return f"{_estimate(_json(found), 100, 2)} ({found.runs})"


def _estimate(
    found: Mapping[str, Any] | None, scale: float, digits: int, *, sign: bool = False
) -> str:
    """Return a value and its interval as text."""
    if found is None:
        return "-"
    form = f"{'+' if sign else ''}.{digits}f"
    text = f"{scale * found['value']:{form}}"
    if found["interval"] is None:
        return text
    low, high = (f"{scale * value:{form}}" for value in found["interval"])
    return f"{text} [{low}, {high}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
