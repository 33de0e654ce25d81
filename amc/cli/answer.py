"""How every command answers: tables or one JSON document, and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NoReturn

import typer

from amc.errors import InputError, SearchFailed
from amc.files import DISK_FULL
from amc.interruption import EXIT_CODE as INTERRUPTED
from amc.printable import printable
from amc.reporting import RichReporter

BAD_INPUT, FAILED = 2, 1

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")
]
Work = Callable[[RichReporter], Any]


def answer(
    work: Work,
    show: Callable[[Any], None],
    as_json: bool,
    hint: str = "",
    *,
    streams: bool = False,
) -> Any:
    """Do ``work``, then print its result, as JSON or with ``show``, and return it.

    ``hint`` is what an interruption says about going on, until the work gives a better one. Work
    that ``streams`` prints its answer itself, while it has the standard output. Raises
    ``typer.Exit`` with the exit code of what went wrong, after saying it on standard error.
    """
    reporter = RichReporter()
    reporter.hint(hint)
    try:
        with contextlib.nullcontext() if streams else _stdout_for_the_answer_alone():
            try:
                result = work(reporter)
            finally:
                reporter.close()
        if as_json:
            print(json.dumps(result, indent=2, allow_nan=False), flush=True)
        else:
            show(result)
        return result
    except KeyboardInterrupt:
        say(f"interrupted{_goes_on(reporter)}")
        raise typer.Exit(INTERRUPTED) from None
    except InputError as error:
        say(f"error: {error}")
        raise typer.Exit(BAD_INPUT) from None
    except SearchFailed as error:
        say(f"error: {error}{_goes_on(reporter)}")
        raise typer.Exit(FAILED) from None
    except Exception as error:
        _fail(error, _goes_on(reporter))


def _goes_on(reporter: RichReporter) -> str:
    return f"; go on with: {reporter.last_hint}" if reporter.last_hint else ""


def _fail(error: Exception, goes_on: str) -> NoReturn:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        place = "" if error.filename is None else f" for {str(error.filename)!r}"
        say(f"error: no space left{place}; what was there is whole; free some space{goes_on}")
        raise typer.Exit(FAILED) from None
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        say(f"error: {str(error.filename)!r}: {error.strerror.lower()}; check path and permissions")
        raise typer.Exit(BAD_INPUT) from None
    traceback.print_exception(error, file=sys.stderr)
    raise typer.Exit(FAILED) from None


def require_plans(result: Mapping[str, Any]) -> None:
    """Leave with exit code 1 where a search of a finished run found no plan, naming each."""
    failures = [row["failure"] for row in result.get("rows", ()) if row.get("failure")]
    for failure in failures:
        say(f"error: {failure}")
    if failures:
        raise typer.Exit(FAILED)


@contextlib.contextmanager
def _stdout_for_the_answer_alone() -> Iterator[None]:
    """Send to standard error whatever libraries and child processes print on standard output."""
    sys.stdout.flush()
    try:
        real = sys.stdout.fileno() == 1
    except OSError:  # replaced by something in memory, as tests do
        real = False
    if not real:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def say(text: str) -> None:
    """Print ``text`` on standard error; what would be an order to the terminal is escaped."""
    print(printable(text, keep="\n"), file=sys.stderr, flush=True)
