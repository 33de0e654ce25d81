"""``amc journal``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amc.cli.answer import BAD_INPUT, AsJson, answer, say
from amc.cli.tables import console, plain
from amc.reporting import Reporter

LAST = 10


class Action(StrEnum):
    """What ``amc journal`` does."""

    check = "check"
    show = "show"
    tail = "tail"


def journal(
    action: Annotated[Action, typer.Argument(help="check for damage, show all, or the tail.")],
    run_dir: Annotated[Path, typer.Argument(help="The folder of a search, finished or running.")],
    agent: Annotated[str | None, typer.Option(help="Of this agent only.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of this seed only.")] = None,
    last: Annotated[
        int, typer.Option("-n", "--last", min=1, help="How many evaluations tail shows a search.")
    ] = LAST,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="tail: also what is added, until the end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the journals of a run, also while it is running. Nothing is changed.

    check reads every record with its checksum; exit code 2 where one is damaged. The last record
    may have been cut short: that is no damage, and the next resume drops it. The files are JSON
    lines; with tail --follow and --json every evaluation is a line too.
    """
    if action is Action.check:
        found = answer(lambda reporter: _checked(run_dir), _show_checked, as_json)
        problems = [row["problem"] for row in found["journals"] if row["problem"]]
        for problem in problems:
            say(f"error: {problem}")
        if problems:
            raise typer.Exit(BAD_INPUT)
        return
    if follow and action is not Action.tail:
        say("error: --follow belongs to tail; write: amc journal tail DIR --follow")
        raise typer.Exit(BAD_INPUT)

    def work(reporter: Reporter) -> Any:
        from amc import journal_view

        count = last if action is Action.tail else None
        return {"evaluations": journal_view.show(run_dir, agent, seed, count)}

    if not follow:
        answer(work, lambda found: _show(found["evaluations"]), as_json)
        return

    def followed(reporter: Reporter) -> Any:
        from amc import journal_view

        say_row = _print_json if as_json else _print_row
        for row in journal_view.follow(run_dir, agent, seed, last):
            say_row(row)

    answer(followed, lambda _: None, as_json=False, streams=True)


def _checked(run_dir: Path) -> Any:
    from amc import journal_view

    return {"journals": journal_view.check(run_dir)}


def _show_checked(found: Mapping[str, Any]) -> None:
    out = console()
    for row in found["journals"]:
        if row["problem"]:
            plain(out, f"{row['search']}: damaged")
            continue
        torn = f", {row['torn_bytes']} bytes cut short at the end" if row["torn_bytes"] else ""
        plain(
            out,
            f"{row['search']}: {row['records']} evaluations, {row['cached']} of them from the "
            f"cache, {row['infeasible']} infeasible; {row['bytes']} bytes, whole{torn}",
        )


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        _print_row(row)


def _print_row(row: Mapping[str, Any]) -> None:
    notes = [
        *(["cached"] if row["cached"] else []),
        *([f"infeasible: {row['reason']}"] if not row["feasible"] else []),
        *([f"stopped after {row['stopped_after']} images"] if row["stopped_after"] else []),
    ]
    text = (
        f"{row['search']} {row['sequence']:5d}  score {row['score']:.4f}  reward "
        f"{row['reward']:.4f}  {1000 * row['predicted_latency_s']:.3f} ms  {row['macs']:,} MACs  "
        f"{row['params']:,} params"
    )
    plain(console(), "  ".join([text, *notes]))


def _print_json(row: Mapping[str, Any]) -> None:
    print(json.dumps(row, allow_nan=False), flush=True)
