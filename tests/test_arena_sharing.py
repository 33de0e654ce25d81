"""What an arena's searches may tell each other: whole answers of whole journals of their kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amc.arena import SCORES, Bout
from amc.arena_sharing import Answers
from amc.config import parse_config
from amc.cost import Cost
from amc.evaluation import Evaluation, Request
from amc.journal import Journal
from amc.plan import Plan
from tests.conftest import SMALL

FACTS: dict[str, Any] = {"network": "n", "code": {"agent": "ours", "evaluations": "e"}}
THEIRS: dict[str, Any] = {**FACTS, "code": {"agent": "theirs", "evaluations": "e"}}


def asking(tmp_path: Path, **own: Any) -> tuple[Bout, Path]:
    """Return a search, and the journal of one that is done, which has two answers."""
    journal = tmp_path / "digits" / "other-s0" / "other-s0" / "journal.jsonl"
    Journal.create(journal.with_name("journal-1.jsonl"), THEIRS)
    Journal.create(journal, THEIRS, **own)
    Journal(journal, THEIRS).append(
        [
            Evaluation(key * 64, Request(Plan({})), 0.5, Cost(1e-3, 10, 5, 20), 0.5)
            for key in ("a", "b")
        ]
    )
    (tmp_path / "digits" / "other-s0" / SCORES).touch()
    config = parse_config({**SMALL, "agents": {"uniform": {}}})
    return Bout("digits", "uniform", 0, tmp_path / "digits" / "uniform-s0", config), journal


def test_answers_of_another_agent_are_told(tmp_path: Path) -> None:
    bout, _ = asking(tmp_path)
    answers = Answers(bout, FACTS)
    assert sorted(answers) == ["a" * 64, "b" * 64]
    assert answers["b" * 64].score == 0.5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"score":0.5', b'"score":0.6'),  # against its checksum
        (b'"sequence":1', b'"sequence":7'),
        (b'"schema_version":2,', b""),
        (b'"schema_version":2', b'"schema_version":9'),
        (b'{"schema_version"', b'["schema_version"'),
    ],
)
def test_a_journal_that_is_damaged_is_left_out(tmp_path: Path, old: bytes, new: bytes) -> None:
    bout, journal = asking(tmp_path)
    content = journal.read_bytes()
    assert old in content
    journal.write_bytes(content.replace(old, new, 1))
    assert not Answers(bout, FACTS)


def test_a_journal_that_goes_on_elsewhere_is_left_out(tmp_path: Path) -> None:
    bout, _ = asking(tmp_path, continues=["journal-1.jsonl"])
    assert not Answers(bout, FACTS)
