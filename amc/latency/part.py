"""A part of a table's JSON that knows where it stands, so that a refusal names field and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from amc.latency.errors import dotted, shown
from amc.latency.grid import Floats


@dataclass(frozen=True)
class Part:
    """A value and its place. Whatever is not as it is asked for is a ``ValueError``."""

    value: Any
    place: tuple[str | int, ...] = ()

    def refused(self, rule: str) -> ValueError:
        """Return the error that the value breaks ``rule``."""
        return ValueError(f"{dotted(self.place) or 'the table'} {shown(self.value)}: {rule}")

    def __getitem__(self, name: str) -> Part:
        """Return the part of that name."""
        parts = self.parts()
        if name not in parts:
            raise ValueError(f"{dotted((*self.place, name))} is missing")
        return parts[name]

    def parts(self) -> dict[str, Part]:
        """Return the parts of an object by their names."""
        if not isinstance(self.value, Mapping):
            raise self.refused("must be an object")
        return {key: Part(one, (*self.place, key)) for key, one in self.value.items()}

    def items(self) -> list[Part]:
        """Return the parts of a list."""
        if not isinstance(self.value, list):
            raise self.refused("must be a list")
        return [Part(one, (*self.place, index)) for index, one in enumerate(self.value)]

    def plain(self) -> dict[str, Any]:
        """Return an object as it is."""
        return {name: part.value for name, part in self.parts().items()}

    def text(self) -> str:
        """Return a text."""
        if not isinstance(self.value, str):
            raise self.refused("must be text")
        return self.value

    def truth(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.refused("must be true or false")
        return self.value

    def whole(self, least: int, most: int) -> int:
        """Return a whole number from ``least`` to ``most``."""
        if type(self.value) is not int or not least <= self.value <= most:
            raise self.refused(f"must be a whole number from {least} to {most}")
        return self.value

    def number(self, most: float, *, above: float | None = None) -> float:
        """Return a number of at most ``most`` either way, or, if given, greater than ``above``."""
        if type(self.value) not in (int, float) or not abs(self.value) <= most:
            raise self.refused(f"must be a number of at most {most:g}")
        if above is not None and not self.value > above:
            raise self.refused(f"must be above {above:g}")
        return float(self.value)

    def numbers(self, grid: Part, most: float, *, above: float) -> Floats:
        """Return an array of the shape of a ``grid``, of numbers as of ``number``."""
        shape = tuple(len(marks.items()) for marks in grid.items())
        rule = f"must be as its grid {shown(grid.value)} is"
        return np.asarray(self._nested(shape, most, above, rule), dtype=np.float64)

    def _nested(self, shape: tuple[int, ...], most: float, above: float, rule: str) -> Any:
        if not shape:
            return self.number(most, above=above)
        items = self.items()
        if len(items) != shape[0]:
            raise self.refused(rule)
        return [item._nested(shape[1:], most, above, rule) for item in items]
