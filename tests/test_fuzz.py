"""Mutated configurations, plans, journals and what else is read: accepted, or refused in words.

``AMC_FUZZ_CASES`` (10,000) is how many cases the slow test makes over all kinds of files.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from amc.config import parse_config
from amc.errors import InputError
from amc.run_folder import write_config
from tests.conftest import SMALL
from tests.fuzzed import Kind, kinds, lines_of, overrides_of, read_bouts
from tests.mutations import mutated_bytes, mutated_value
from tests.oracle import fault, fault_of_experiment, fault_of_overrides, in_lines

FAST = 40  # cases a kind

CASES = int(os.environ.get("AMC_FUZZ_CASES", "10000"))


NAMES = (
    *("configuration", "training", "fine-tuning", "override", "plan", "table", "journal"),
    *("summary", "report", "outbox", "delivery", "experiment", "arena"),
)


def case_of(kind: Kind, draw: random.Random) -> tuple[bytes, bytes]:
    """Return a file as it was, and with something wrong in it."""
    content = draw.choice(kind.contents)
    if draw.random() < 0.4:
        return content, mutated_bytes(content, draw)
    return content, kind.text(mutated_value(kind.parse(content), draw))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


def documents(kind: Kind, old: bytes, new: bytes) -> tuple[Any, Any] | None:
    """Return what two contents hold; ``None`` where the new one cannot be parsed."""
    try:
        return kind.parse(old), kind.parse(new)
    except (ValueError, RecursionError, yaml.YAMLError, AttributeError, TypeError):
        return None


def lacks(kind: Kind, message: str, old: bytes, new: bytes) -> str | None:
    """Return what the message about ``new`` lacks, which was made of ``old``, or ``None``."""
    both = documents(kind, old, new)
    if kind.parse is overrides_of:
        return None if both is None else fault_of_overrides(message, both[1])
    if kind.parse is lines_of:
        return in_lines(message, new, both)
    if kind.read is read_bouts:
        return fault_of_experiment(message, both)
    return fault(message, both)


def try_case(kind: Kind, old: bytes, content: bytes, folder: Path) -> str:
    """Return "accepted" or "refused"; fail where a file is refused in any other way than it may."""
    path = folder / kind.file
    path.write_bytes(content)
    before = listing(folder)
    try:
        kind.read(path)
        outcome = "accepted"
    except InputError as error:
        text, outcome = str(error), "refused"
        assert all(c.isprintable() or c == "\n" for c in text), f"not printable: {text!r}"
        assert len(text) < 20_000, f"{len(text)} characters: {text[:300]!r}"
        missing = lacks(kind, text, old, content)
        assert missing is None, f"{missing}: {text!r}"
    assert listing(folder) == before, "a side effect"
    return outcome


def fuzz(kind: Kind, name: str, cases: int, folder: Path) -> Counter[str]:
    """Return how many cases were accepted and refused; what fails is kept in the message."""
    if name == "summary":
        write_config(folder / "config.yaml", parse_config(SMALL))
    counts: Counter[str] = Counter()
    for number in range(cases):
        old, content = case_of(kind, random.Random(f"{name} {number}"))
        try:
            counts[try_case(kind, old, content, folder)] += 1
        except Exception as error:
            start = content[:200]
            raise AssertionError(f"{name} {number}: {error!r} for {start!r}") from error
    return counts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "case").mkdir()
    monkeypatch.chdir(tmp_path / "case")
    return tmp_path / "case"


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_accepted_or_refused_in_words(
    digits_run: Path, folder: Path, name: str
) -> None:
    counts = fuzz(kinds(digits_run)[name], name, FAST, folder)
    assert counts["refused"] > FAST / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_mutated_files(digits_run: Path, folder: Path, name: str) -> None:
    each = -(-CASES // len(NAMES))
    counts = fuzz(kinds(digits_run)[name], name, each, folder)
    print(f"{name}: {counts['accepted']} accepted, {counts['refused']} refused")
    assert sum(counts.values()) == each
