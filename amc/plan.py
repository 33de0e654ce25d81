"""What a search decides: a ``Choice`` a site, and the ``Plan`` they make up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def digest(value: Any) -> str:
    """Return the SHA-256 of ``value``'s canonical JSON, as 64 hexadecimal characters."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Choice:
    """What happens at one site: which channels stay, in which pattern, run by which kernel.

    ``kept`` are ascending indices into the original network's channels of the site;
    ``keep_ratio = len(kept) / channels``. Of a site that decides on a layer's weights ``kept`` is
    empty (null in JSON) and ``keep_ratio`` 1, for no channel goes on its account; ``sparsity`` is
    the fraction of zeros among the weights that the channels leave, in [0, 1).
    """

    keep_ratio: float
    kept: tuple[int, ...]
    pattern: str = "dense"
    sparsity: float = 0.0
    kernel: str = "dense"

    def as_json(self) -> dict[str, Any]:
        """Return the choice as a dict of JSON values."""
        return {
            "keep_ratio": self.keep_ratio,
            "kept": list(self.kept) or None,
            "pattern": self.pattern,
            "sparsity": self.sparsity,
            "kernel": self.kernel,
        }


@dataclass(frozen=True)
class Plan:
    """A choice for every site of a search space, by site name, in the space's order."""

    choices: Mapping[str, Choice] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return ``{site: choice}`` as JSON values."""
        return {site: choice.as_json() for site, choice in self.choices.items()}

    @staticmethod
    def from_json(value: Mapping[str, Mapping[str, Any]]) -> Plan:
        """Return the plan that ``as_json`` wrote."""
        return Plan({site: _choice(c) for site, c in value.items()})

    @property
    def digest(self) -> str:
        """The content digest. Never a cache key by itself: see ``amc.evaluation.Request``."""
        return digest(self.as_json())

    @property
    def keep_ratios(self) -> dict[str, float]:
        """What stays at every site, as a fraction of its channels or of its layer's weights."""
        return {site: c.keep_ratio * (1 - c.sparsity) for site, c in self.choices.items()}


def _choice(value: Mapping[str, Any]) -> Choice:
    return Choice(**{**value, "kept": tuple(value["kept"] or ())})
