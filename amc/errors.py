"""Errors that a person can act on: which field, what value, what to do about it."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The command line prints its message alone and leaves with exit code 2."""


class BudgetSpent(Exception):
    """Raised by ``SearchTask.evaluate`` once the last evaluation of a search has been answered.

    It ends an agent's plain loop; ``amc.search_run.run_search`` catches it.
    """


class SearchFailed(RuntimeError):
    """Work cannot go on, for a reason that lies outside of it: workers, task, server, machine.

    The command line prints its message and how to go on, and leaves with exit code 1.
    """


class FailedAlike(SearchFailed):
    """One search cannot go on: its evaluations fail one after the other, all for one reason.

    ``amc.search_run.run_search`` catches it; the other searches of the run are made as ever.
    """
