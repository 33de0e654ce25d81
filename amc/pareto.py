"""Fronts of accuracy and latency: which points no other one beats, and the area below them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Point(NamedTuple):
    """A network: the time of one batch, and accuracy as a fraction."""

    latency: float
    accuracy: float


def pareto_front(points: Iterable[T], at: Callable[[T], Point]) -> list[T]:
    """Return the ``points`` that no other one beats on both axes, by rising latency.

    ``at`` says where a point lies; of several at one place the first stays.
    """
    front: list[T] = []
    for point in sorted(points, key=lambda p: (at(p).latency, -at(p).accuracy)):
        if not front or at(point).accuracy > at(front[-1]).accuracy:
            front.append(point)
    return front


def hypervolume(points: Iterable[Point], worst: Point, best_accuracy: float) -> float:
    """Return the share of a rectangle that ``points`` beat (Zitzler and Thiele, PPSN 1998).

    It reaches from the latency and accuracy of ``worst`` to a latency of 0 and ``best_accuracy``;
    what lies beyond that accuracy counts too, so the result may exceed 1. Points slower or less
    accurate than ``worst`` add nothing.
    """
    if best_accuracy <= worst.accuracy or worst.latency <= 0:
        raise ValueError(f"no area between {worst} and an accuracy of {best_accuracy}")
    inside = [p for p in points if p.latency < worst.latency and p.accuracy > worst.accuracy]
    front = pareto_front(inside, lambda point: point)
    ends = [*(p.latency for p in front[1:]), worst.latency]
    area = sum(
        (end - point.latency) * (point.accuracy - worst.accuracy)
        for point, end in zip(front, ends, strict=False)
    )
    return area / (worst.latency * (best_accuracy - worst.accuracy))
