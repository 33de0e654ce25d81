"""A stand-in for the module ``ray`` in ``amc.ray_workers``: actors that live in this process.

What an actor is asked to do is done when its answer is waited for. ``disturb`` is told before, and
may return an exception of Ray's, of which the actor then dies, or do harm of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from amc.ray_workers import LOST
from amc.worker import Start

# By way of the module that sets Ray's variables before it imports it.
LOST_BY: tuple[Any, ...] = LOST
RayActorError, WorkerCrashedError, *_, OutOfMemoryError = LOST_BY
Disturb = Callable[[str, int], Exception | None]  # method, and how many calls of it came before


class Reference:
    """What Ray gives for a value that it keeps, or for an answer to come."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do
        self._answer: Any = None

    def value(self) -> Any:
        if self._answer is None:
            try:
                self._answer = ("value", self._do())
            except Exception as error:
                self._answer = ("error", error)
        kind, value = self._answer
        if kind == "error":
            raise value
        return value


class FakeRay:
    """What ``amc.ray_workers`` uses of Ray. ``put_bytes`` lists what was shipped as starts."""

    def __init__(self, disturb: Disturb = lambda method, count: None) -> None:
        self.disturb = disturb
        self.counts: dict[str, int] = {}
        self.built = 0  # actors
        self.kept: weakref.WeakSet[Reference] = weakref.WeakSet()
        self.put_bytes: list[int] = []

    def is_initialized(self) -> bool:
        return True  # so that none is started

    def put(self, value: Any) -> Reference:
        reference = Reference(lambda: value)
        self.kept.add(reference)
        if isinstance(value, Start):
            self.put_bytes.append(sum(array.nbytes for array in value.state.values()))
        return reference

    def get(self, reference: Reference) -> Any:
        return reference.value()

    def wait(
        self, references: Sequence[Reference], num_returns: int, timeout: float | None
    ) -> tuple[list[Reference], list[Reference]]:
        assert num_returns == 1
        return [references[0]], list(references[1:])

    def kill(self, actor: _Actor) -> None:
        actor.dead = True

    def remote(self, **options: Any) -> Callable[[type], _Class]:
        return lambda own: _Class(self, own)


class _Class:
    def __init__(self, ray: FakeRay, own: type) -> None:
        self._ray, self._own = ray, own

    def remote(self) -> _Actor:
        self._ray.built += 1
        return _Actor(self._ray, self._own())


class _Actor:
    def __init__(self, ray: FakeRay, own: Any) -> None:
        self._ray, self._own, self.dead = ray, own, False

    def __getattr__(self, method: str) -> _Method:
        return _Method(self, method)

    def answer(self, method: str, arguments: Sequence[Any]) -> Any:
        if self.dead:
            raise RayActorError
        count = self._ray.counts.get(method, 0)
        self._ray.counts[method] = count + 1
        if (error := self._ray.disturb(method, count)) is not None:
            self.dead = True
            raise error
        given = [a.value() if isinstance(a, Reference) else a for a in arguments]
        return getattr(self._own, method)(*given)


class _Method:
    def __init__(self, actor: _Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Reference:
        return Reference(lambda: self._actor.answer(self._name, arguments))
