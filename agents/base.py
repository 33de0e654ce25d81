"""What every agent is: options at construction, one plain loop in ``search``."""

from __future__ import annotations

from typing import ClassVar, Protocol

from amc.errors import InputError
from amc.printable import shown
from amc.search_task import SearchTask


class Agent(Protocol):
    """A search method. Methods inherit from this class, or just look like it.

    ``Agent(**options)`` takes the options that a configuration gives it, each with a default, and
    refuses others; a value out of range is an ``InputError``. Two calls of ``search`` with equal
    tasks make equal requests: an agent draws only from generators that it seeds with ``task.seed``,
    or from the global ones, which are seeded for it before ``search`` is called. What depends on
    the length of a search reads ``task.horizon``, which never changes, not ``task.evaluations``.
    ``packages`` are the libraries that decide what it asks for; journals name their versions.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    def check(self, task: SearchTask) -> None:
        """Raise ``InputError`` where the method cannot work with this task; evaluates nothing."""
        return

    def search(self, task: SearchTask) -> None:
        """Call ``task.evaluate`` until done, or until it raises ``BudgetSpent``."""
        ...


def require_number(
    field: str, value: object, low: float, high: float = float("inf"), *, whole: bool = False
) -> None:
    """Raise ``InputError`` unless ``value`` is a number (a whole one, where asked) in the range.

    ``field`` is the option's full name, such as ``agents.ddpg.tau``; both ends are allowed.
    """
    kind = "a whole number" if whole else "a number"
    rule = f"of at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
    numeric = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not numeric or not low <= value <= high:  # type: ignore[operator]
        raise InputError(
            f"{field} must be {kind} {rule}, but got {shown(value)}; "
            "change it or leave it out for the default"
        )


def require_choice(field: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ``InputError`` unless ``value`` is one of the ``known`` words."""
    if value not in known:
        words = " or ".join(repr(word) for word in known)
        raise InputError(f"{field} must be {words}, but got {shown(value)}; choose one of them")


def require_flag(field: str, value: object) -> None:
    """Raise ``InputError`` unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise InputError(
            f"{field} must be true or false, but got {shown(value)}; choose one of them"
        )
