"""Resume is replay: the evaluators that answer from a journal what it holds already."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from amc.errors import InputError
from amc.evaluation import Evaluation, Evaluator, Request
from amc.journal import Journal


@dataclass
class Clock:
    """Seconds of a search by where they went; ``saved_s`` is what replayed answers had taken."""

    evaluation_s: float = 0.0
    replay_s: float = 0.0
    saved_s: float = 0.0
    replayed: int = 0

    def told(self) -> str:
        """Return one sentence on what was answered from the journal, and how fast."""
        ratio = self.saved_s / self.replay_s if self.replay_s else 0.0
        return (
            f"answered {self.replayed} evaluations from the journal in {self.replay_s:.3f} s; they "
            f"had taken {self.saved_s:.1f} s, {ratio:,.0f} times as long (the agent's own time "
            "comes on top)"
        )


class JournaledEvaluator:
    """Answers the first requests from the journal, then goes on live and records."""

    def __init__(self, inner: Evaluator, journal: Journal) -> None:
        self._inner, self._journal = inner, journal
        self._position = 0
        self.clock = Clock(replay_s=journal.seconds if journal.records else 0.0)

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request; ``InputError`` where a request is not that on record."""
        begin = time.perf_counter()
        recorded = self._journal.records[self._position : self._position + len(requests)]
        for request, record in zip(requests, recorded, strict=False):
            if request != record.request:
                raise InputError(
                    f"{self._journal.path}: record {self._position} answers another request than "
                    "the search makes now; the machine, the code or the configuration has changed "
                    f"since: {self._journal.remedy}"
                )
            self._position += 1
            self.clock.replayed += 1
            self.clock.saved_s += float(record.observed.get("evaluation_s", 0.0))
        self.clock.replay_s += time.perf_counter() - begin
        fresh = requests[len(recorded) :]
        if not fresh:
            return recorded
        begin = time.perf_counter()
        answers = self._inner.evaluate(fresh)
        self.clock.evaluation_s += time.perf_counter() - begin
        self._journal.append(answers)
        self._position += len(answers)
        return [*recorded, *answers]


class RecordedEvaluator:
    """Answers what has been evaluated elsewhere, by key; the rest goes on.

    So for what another machine or other code had answered for this run, and for what another search
    of an arena has. ``observed`` has a ``mark`` on such answers.
    """

    def __init__(
        self, inner: Evaluator, recorded: Mapping[str, Evaluation], context: str, mark: str
    ) -> None:
        self._inner, self._context, self._recorded = inner, context, recorded
        self._mark = mark

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        """Return one evaluation a request, in order."""
        keys = [request.digest(self._context) for request in requests]
        live = [r for key, r in zip(keys, requests, strict=True) if key not in self._recorded]
        answers = iter(self._inner.evaluate(live) if live else [])
        return [
            self._again(self._recorded[key]) if key in self._recorded else next(answers)
            for key in keys
        ]

    def _again(self, evaluation: Evaluation) -> Evaluation:
        return replace(evaluation, observed={**evaluation.observed, self._mark: True})


def answered(earlier: Iterable[Evaluation]) -> dict[str, Evaluation]:
    """Return, by key, what need not be evaluated again.

    What failed there, or lost a race that may come out otherwise here, is.
    """
    return {e.key: e for e in earlier if not e.cached and e.feasible and e.stopped_after is None}
