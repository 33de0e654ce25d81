from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from amc.cost import Cost
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.evaluators import CachedEvaluator
from amc.journal import Journal, read_journal
from amc.plan import Choice, Plan
from amc.replay import JournaledEvaluator

FACTS = {"network_digest": "a", "table_digest": "b"}


class Counting:
    """Scores a plan by its width, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        self.asked += len(requests)
        return [
            Evaluation(r.digest("c"), r, score_of(r), Cost(1e-3, 10, 5, 20), score_of(r))
            for r in requests
        ]


def score_of(request: Request) -> float:
    return len(request.plan.choices["site"].kept) / 8


def request(width: int) -> Request:
    return Request(Plan({"site": Choice(width / 8, tuple(range(width)))}))


def journal(tmp_path: Path) -> Journal:
    path = tmp_path / "journal.jsonl"
    if not path.exists():
        Journal.create(path, FACTS)
    return Journal(path, FACTS)


def test_replay_answers_without_evaluating(tmp_path: Path) -> None:
    first = JournaledEvaluator(Counting(), journal(tmp_path)).evaluate([request(1), request(2)])
    inner = Counting()
    again = JournaledEvaluator(inner, journal(tmp_path))
    assert again.evaluate([request(1)]) == first[:1]
    mixed = again.evaluate([request(2), request(3)])
    assert mixed[:1] == first[1:]
    assert inner.asked == 1
    assert len(read_journal(tmp_path / "journal.jsonl")[1]) == 3


def test_a_request_comes_back_whole(tmp_path: Path) -> None:
    asked = Request(request(1).plan, "parent", finetune=3, seed=2)
    JournaledEvaluator(Counting(), journal(tmp_path)).evaluate([asked])
    ((_, (record,)),) = [read_journal(tmp_path / "journal.jsonl")]
    assert record.request == asked


def test_another_request_than_on_record_is_refused(tmp_path: Path) -> None:
    JournaledEvaluator(Counting(), journal(tmp_path)).evaluate([request(1)])
    with pytest.raises(InputError, match="record 0 answers another request"):
        JournaledEvaluator(Counting(), journal(tmp_path)).evaluate([request(2)])


def test_other_facts_are_refused_by_name(tmp_path: Path) -> None:
    journal(tmp_path)
    with pytest.raises(InputError, match="table_digest was 'b' .* is 'x' now"):
        Journal(tmp_path / "journal.jsonl", {**FACTS, "table_digest": "x"})
    with pytest.raises(InputError, match="objective was None .* is 'y' now"):
        Journal(tmp_path / "journal.jsonl", {**FACTS, "objective": "y"})
    with pytest.raises(InputError, match="table_digest was 'b' .* is None now"):
        Journal(tmp_path / "journal.jsonl", {"network_digest": "a"})


def test_a_torn_tail_heals(tmp_path: Path) -> None:
    JournaledEvaluator(Counting(), journal(tmp_path)).evaluate([request(1), request(2)])
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    second = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(second + 1, len(whole)):
        path.write_bytes(whole[:cut])
        again = JournaledEvaluator(Counting(), journal(tmp_path))
        again.evaluate([request(1), request(2)])
        assert len(read_journal(path)[1]) == 2


def test_corruption_in_the_middle_is_refused_with_its_offset(tmp_path: Path) -> None:
    JournaledEvaluator(Counting(), journal(tmp_path)).evaluate([request(1), request(2)])
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken" + lines[1][7:] + lines[2])
    with pytest.raises(InputError, match=f"corrupt at byte {len(lines[0])}"):
        journal(tmp_path)


def test_equal_requests_are_evaluated_once_and_marked() -> None:
    inner = Counting()
    cache = CachedEvaluator(inner, "c")
    answers = cache.evaluate([request(1), request(1), request(2)])
    assert [a.cached for a in answers] == [False, True, False]
    assert [a.cached for a in cache.evaluate([request(2)])] == [True]
    assert inner.asked == 2


def test_without_the_cache_every_request_is_evaluated() -> None:
    inner = Counting()
    plain = CachedEvaluator(inner, "c", enabled=False)
    assert not any(a.cached for a in plain.evaluate([request(1), request(1)]))
    plain.evaluate([request(1)])
    assert inner.asked == 3


def test_a_request_is_more_than_its_plan() -> None:
    plan = request(1).plan
    keys = {
        Request(plan).digest("c"),
        Request(plan).digest("d"),
        Request(plan, parent="x").digest("c"),
        Request(plan, finetune=3).digest("c"),
        Request(plan, finetune=3, seed=1).digest("c"),
        Request(plan, measure=True).digest("c"),
    }
    assert len(keys) == 6
