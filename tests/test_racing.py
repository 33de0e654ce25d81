"""Racing: the test errs as rarely as it says, and a search ends where it would have ended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from amc import app, finish, worker
from amc.config import parse_config
from amc.config_identity import NOT_OF_THE_RESULT
from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.evaluators import CachedEvaluator, Pricing, RacingEvaluator, ScoringEvaluator
from amc.journal import Journal, read_journal
from amc.objective import AccuracyGuaranteed, AccuracyWithinBudget, Objective, ResourceConstrained
from amc.plan import Plan, digest
from amc.racing import Racing, log_capital
from amc.replay import JournaledEvaluator
from amc.reporting import SilentReporter
from amc.worker import Final, Outcome, Start, Work, Worker
from amc.workers import FinalWork
from tests.conftest import SMALL
from tests.toy import toy_task

Values = NDArray[np.float64]
Test = Callable[[Values, int, float], bool]
IMAGES, ORDERS, ERROR = 300, 800, 0.1
POPULATIONS = {
    "few right": np.repeat([1.0, 0.0], [60, 240]),
    "most right": np.repeat([1.0, 0.0], [270, 30]),
    "even": np.linspace(0.0, 1.0, IMAGES),
    "skewed": np.linspace(0.0, 1.0, IMAGES) ** 0.1,
    "all alike": np.full(IMAGES, 0.7),
}


def rate_of_stops(population: Values, needed: float, lost: Test) -> float:
    """Return how often a look after some of the values, in random order, finds the plan lost."""
    generator = np.random.default_rng(0)
    stops = 0
    for _ in range(ORDERS):
        values = generator.permutation(population)
        stops += any(lost(values[:seen], IMAGES, needed) for seen in range(10, IMAGES, 10))
    return stops / ORDERS


def one_look(values: Values, images: int, needed: float) -> bool:
    """A test with its confidence at one look, which this harness must find out."""
    spread = math.sqrt(values.var() / len(values) * (1.0 - len(values) / images))
    return bool(needed - values.mean() > 1.2816 * spread)


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_plan_as_good_as_needed_is_stopped_as_rarely_as_stated(name: str) -> None:
    population = POPULATIONS[name]
    rate = rate_of_stops(population, float(population.mean()), Racing(1.0 - ERROR).lost)
    assert rate <= ERROR + 3.0 * math.sqrt(ERROR * (1.0 - ERROR) / ORDERS)


def test_a_test_for_one_look_fails_the_same_check() -> None:
    population = POPULATIONS["most right"]
    rate = rate_of_stops(population, float(population.mean()), one_look)
    assert rate > ERROR + 3.0 * math.sqrt(ERROR * (1.0 - ERROR) / ORDERS)


@pytest.mark.parametrize("name", ["few right", "even", "all alike"])
def test_a_plan_far_behind_is_stopped(name: str) -> None:
    population = POPULATIONS[name]
    assert rate_of_stops(population, float(population.mean()) + 0.2, Racing(0.99).lost) == 1.0


def test_what_can_no_longer_be_reached_is_lost_for_certain() -> None:
    sure = Racing(1.0 - 1e-15)
    wrong = np.concatenate([np.ones(80), np.zeros(10)])
    assert not sure.lost(wrong, 100, 0.90)
    assert sure.lost(wrong, 100, 0.9001)
    assert not sure.lost(np.ones(99), 100, 1.0)


def test_the_more_is_needed_the_sooner_a_plan_is_lost() -> None:
    values = np.random.default_rng(0).permutation(POPULATIONS["even"])[:150]
    capitals = [log_capital(values, IMAGES, needed) for needed in (0.3, 0.5, 0.55, 0.7, 0.9)]
    assert all((low <= high).all() for low, high in itertools.pairwise(capitals))


class Recording:
    """Workers that give every plan the same score, and note what it needed."""

    def __init__(self) -> None:
        self.needed: list[float | None] = []

    def run(self, batch: Sequence[Work], finished: Any = None) -> list[Outcome]:
        self.needed += [work.needed for work in batch]
        return [Outcome(0.5, None, 0.0, 0.0, 0.0, 0.0, 0.0) for _ in batch]

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        raise NotImplementedError

    def close(self) -> None:
        return


class Parents:
    """Weights of any plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def start(self, key: str) -> Start:
        return Start(self._plan, {})

    def note(self, evaluation: Evaluation, state: Any = None) -> None:
        return

    def forget_others(self, keys: Any) -> None:
        return


OBJECTIVES = [ResourceConstrained(), AccuracyGuaranteed(), AccuracyWithinBudget()]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_only_requests_that_compete_for_the_result_race(objective: Objective) -> None:
    task, workers = toy_task(), Recording()
    pricing = Pricing(task.sites, task.cost_model, objective, task.budget, "toy")
    scoring = ScoringEvaluator(workers, pricing)
    racing = RacingEvaluator(scoring, scoring, task.budget)
    small, dense = task.plan(task.smallest_widths), task.plan(task.dense_widths)
    scoring.weights = Parents(dense)  # type: ignore[assignment]
    (first,) = racing.evaluate([Request(small)])
    requests = [Request(small, finetune=3), Request(small, parent="x"), Request(dense)]
    racing.evaluate([*requests, Request(small)])
    assert workers.needed[:-1] == [None] * 4
    needed = workers.needed[-1]
    assert needed is not None
    assert objective(needed, first.cost, task.budget) == pytest.approx(first.reward)


def test_a_stopped_plan_never_wins() -> None:
    task = toy_task()
    (answer,) = task.evaluate([task.plan(task.smallest_widths)])
    task.history.append(replace(answer, score=0.99, reward=0.99, stopped_after=250))
    assert task.best() == answer


def racing_config(agent: str, **changes: Any) -> Any:
    own = {"agents": {agent: {}}, "evaluations": 20, "finetune_steps": 0, "racing": True}
    return parse_config({**SMALL, **own, **changes})


def records(run: Path, agent: str) -> list[Evaluation]:
    """Return the records, without what may differ between equal runs."""
    _, evaluations = read_journal(run / f"{agent}-s0" / "journal.jsonl")
    return [replace(evaluation, observed={}) for evaluation in evaluations]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out measurements, and look after every 50 of the 400 images."""
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    monkeypatch.setattr(worker, "BATCH", 50)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["task", "cross_entropy", "agreement"])
def test_a_search_that_races_ends_at_the_same_plan(tmp_path: Path, score: str) -> None:
    rows, histories = {}, {}
    for racing in (True, False):
        config = racing_config("random_search", racing=racing, score=score)
        rows[racing] = app.search(config, tmp_path / str(racing))["rows"][0]
        histories[racing] = records(tmp_path / str(racing), "random_search")
    assert rows[True]["best_score"] == pytest.approx(rows[False]["best_score"], abs=1e-9)
    assert rows[True]["search_accuracy"] == rows[False]["search_accuracy"]
    stopped = [e.stopped_after for e in histories[True] if e.stopped_after is not None]
    assert rows[True]["stopped"] == len(stopped) >= 5
    assert rows[False]["stopped"] == 0
    assert set(stopped) <= set(range(50, 400, 50))
    best = max(evaluation.score for evaluation in histories[False])
    for raced, plain in zip(histories[True], histories[False], strict=True):
        assert raced.request == plain.request
        if raced.stopped_after is None:
            assert raced.score == pytest.approx(plain.score, abs=1e-9)
        else:
            assert plain.score < best


def test_shortcuts_leave_scores_as_they_are(tmp_path: Path) -> None:
    changes = {"recovery": "least_squares", "batch_norm_images": None}
    config = racing_config("random_search", **changes)
    app.search(config, tmp_path / "run")
    session, _ = app.prepare(config, SilentReporter())
    plain = Worker(replace(session.job(), racing=None, fold_batch_norm=False))
    for record in records(tmp_path / "run", "random_search"):
        score = plain.run(Work(record.request.plan, None, None, 0)).score
        if record.stopped_after is None:
            assert record.score == pytest.approx(score, abs=1.01 / 400)  # an image on the edge


@pytest.mark.slow
def test_netadapts_proposals_do_not_race(tmp_path: Path) -> None:
    app.search(racing_config("netadapt", evaluations=24), tmp_path / "run")
    assert {e.stopped_after for e in records(tmp_path / "run", "netadapt")} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["random_search", "ddpg"])
def test_a_race_that_is_gone_on_with_comes_to_the_same(tmp_path: Path, agent: str) -> None:
    app.search(racing_config(agent), tmp_path / "run")
    whole = records(tmp_path / "run", agent)
    journal = tmp_path / "run" / f"{agent}-s0" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for length in (6, 11):  # within a batch
        journal.write_bytes(b"".join(lines[: 1 + length]))
        app.resume(tmp_path / "run")
        assert records(tmp_path / "run", agent) == whole
    assert any(e.stopped_after for e in whole)


def test_a_stopped_record_survives_the_journal_and_answers_equal_requests(tmp_path: Path) -> None:
    task, path = toy_task(), tmp_path / "journal.jsonl"
    (answer,) = task.evaluate([task.plan(task.smallest_widths)])
    stopped = replace(answer, task_score=0.25, stopped_after=500)
    Journal.create(path, {})
    Journal(path, {}).append([answer, stopped])
    _, read = read_journal(path)
    assert read == [answer, stopped]
    plain, raced = path.read_text().splitlines()[1:]
    assert "stopped_after" not in plain
    assert '"stopped_after":500' in raced
    cache = CachedEvaluator(JournaledEvaluator(task.evaluator, Journal(path, {})), "toy")
    cache.note(stopped)
    assert cache.evaluate([stopped.request]) == [replace(stopped, cached=True)]


def test_without_racing_and_smooth_scores_digests_are_as_they_were() -> None:
    config = parse_config({**SMALL, "racing": False, "score": "task"})
    before = config.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
    assert [before.pop(key) for key in ("racing", "score")] == [None, "task"]
    for key in ("cache", "evaluation_steps", "infeasible_reward", "objective", "short_term"):
        del before[key]
    for key in ("weight_criterion", "patterns", "sparsities"):
        del before["sites"][key]
    assert config.digest == digest(before) == parse_config(SMALL).digest
    session, _ = app.prepare(config, SilentReporter())
    assert session.facts.keys().isdisjoint({"racing", "search_score", "cache"})
    others: list[dict[str, Any]] = [
        {"cache": False},
        {"racing": True},
        {"racing": {"confidence": 0.9}},
        {"score": "agreement"},
    ]
    assert len({config.digest, *(parse_config({**SMALL, **o}).digest for o in others)}) == 5


@pytest.mark.parametrize("confidence", [0.2, 1.0, float("nan")])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match="racing.confidence"):
        parse_config({**SMALL, "racing": {"confidence": confidence}})
