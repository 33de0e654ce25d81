"""Running a function in a process of its own, which starts from nothing and ends with it.

For what is to be timed: in a process that has timed thousands of kernels, whole networks run up to
10% slower than in a fresh one.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Concatenate, ParamSpec, TypeVar

import cloudpickle

from amc.errors import InputError
from amc.reporting import Handle, QuietHandle, Reporter

P = ParamSpec("P")
T = TypeVar("T")


def apart(
    work: Callable[Concatenate[Reporter, P], T],
    reporter: Reporter,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Return ``work(reporter, *args, **kwargs)``, run in a fresh process.

    What is told to the process's own ``reporter`` arrives here; all else goes there by
    ``cloudpickle``. A script that calls this guards its own start (``if __name__ == "__main__"``),
    as every use of processes that start from nothing asks for. Raises what ``work`` raises:
    ``InputError`` as it is, anything else as ``RuntimeError``.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    sent = cloudpickle.dumps((work, args, kwargs))
    process = context.Process(target=_work, args=(sent, there))
    process.start()
    there.close()
    bars: dict[int, Handle] = {}
    try:
        while True:
            kind, *values = here.recv()
            if kind == "result":
                result: T = values[0]
                return result
            if kind == "error":
                raise values[0]
            if kind == "task":
                bars[values[0]] = reporter.task(*values[1:])
            elif kind == "advance":
                bars[values[0]].advance(*values[1:])
            else:
                getattr(reporter, kind)(*values)
    except EOFError:
        process.join()
        name = getattr(work, "__name__", "work")
        code = process.exitcode
        raise RuntimeError(f"the process of {name!r} ended with exit code {code}") from None
    finally:
        process.terminate()
        process.join()


class _Bar(QuietHandle):
    def __init__(self, there: Connection, number: int) -> None:
        self._there, self._number = there, number

    def advance(self, n: int = 1, note: str = "") -> None:
        self._there.send(("advance", self._number, n, note))


class _Told:
    """A reporter that sends on what it is told."""

    def __init__(self, there: Connection) -> None:
        self._there = there
        self._numbers = itertools.count()

    def task(self, description: str, total: int | None) -> Handle:
        number = next(self._numbers)
        self._there.send(("task", number, description, total))
        return _Bar(self._there, number)

    def message(self, text: str) -> None:
        self._there.send(("message", text))

    def hint(self, text: str) -> None:
        self._there.send(("hint", text))


def _end_with(owner: int) -> None:
    """Wait until the owner, however it ends, is gone, then leave at once."""
    wait([owner])
    os._exit(1)


def _work(sent: bytes, there: Connection) -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None
    threading.Thread(target=_end_with, args=(owner.sentinel,), daemon=True).start()
    name = "work"
    try:
        work, args, kwargs = cloudpickle.loads(sent)
        name = work.__name__
        there.send(("result", work(_Told(there), *args, **kwargs)))
    except KeyboardInterrupt:  # the terminal tells every process; the first one answers
        return
    except InputError as error:
        there.send(("error", error))
    except Exception as error:
        traceback.print_exception(error)
        there.send(("error", RuntimeError(f"{name} failed: {error!r}")))
