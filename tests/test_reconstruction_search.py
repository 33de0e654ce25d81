"""Reconstruction within evaluations: the same weights whoever does the work, and when."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from amc import app
from amc.compress import compress, kept_of
from amc.config import parse_config
from amc.data import Data
from amc.errors import InputError
from amc.evaluation import Request
from amc.evaluators import ScoringEvaluator
from amc.finish import finals
from amc.reconstruction.least_squares import LeastSquares
from amc.reconstruction.progressive import Progressive
from amc.recovery import Recovery, reconstructs
from amc.reporting import SilentReporter
from amc.run_folder import Search
from amc.search_run import Found, folder_for
from amc.session import Session
from amc.weights import state_sha256
from amc.worker import Start, Work, Worker, score, state_arrays, state_tensors
from amc.workers import InProcess, outcomes
from tests.conftest import SMALL
from tests.reconstruction_on_ray import digests, plans
from tests.toy import toy_task

ROOT = Path(__file__).parent.parent
RECONSTRUCTIONS = ["least_squares", "progressive"]


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    names = ["none", "batch_norm"]
    names += [r + end for r in RECONSTRUCTIONS for end in ("", "+batch_norm")]
    first, _ = app.prepare(parse_config(SMALL), SilentReporter())
    return {
        name: replace(first, config=first.config.model_copy(update={"recovery": name}))
        for name in names
    }


@pytest.mark.parametrize("name", ["least_squares", "least_squares+batch_norm", "progressive"])
def test_an_evaluation_is_the_plain_path(sessions: dict[str, Session], name: str) -> None:
    session = sessions[name]
    job, plan = session.job(), plans(session)[0]
    calibration = job.calibration.channels_last()
    plain = compress(job.network, job.groups, kept_of(plan))
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if "progressive" in name:
        Progressive(job.network, job.groups, calibration).apply(plain, kept_of(plan))
    else:
        orders = session.space.orders
        LeastSquares(job.network, job.groups, orders, calibration).apply(plain, kept_of(plan))
    end = Recovery("batch_norm" if "+" in name else "none", plain, (), {}, calibration)
    end.recalibrate(plain)
    worker = Worker(job)
    assert worker.run(Work(plan, None, None, 0)).score == score(plain, job.search, job.score)
    final = worker.finalise(plan, None, None, 0)
    assert final.state is not None
    assert state_sha256(final.state) == state_sha256(state_arrays(plain))


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_an_answer_depends_on_the_work_alone(sessions: dict[str, Session], name: str) -> None:
    session = sessions[name]
    works = [Work(plan, None, None, 0) for plan in plans(session)]
    job = session.job()
    forth = outcomes(InProcess(job).run(works))
    again = pickle.loads(pickle.dumps(job))  # noqa: S301
    back = outcomes(InProcess(again).run(works[::-1]))[::-1]
    assert [one.score for one in forth] == [one.score for one in back]
    assert all(one.state is None for one in forth)
    assert all(one.recover_s >= one.reconstruct_s for one in forth)


@pytest.mark.long
@pytest.mark.slow
def test_ray_workers_come_to_the_same_bytes(sessions: dict[str, Session]) -> None:
    """In a process of its own, as one process starts Ray once."""
    command = [sys.executable, "-m", "tests.reconstruction_on_ray", *RECONSTRUCTIONS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    there = json.loads(done.stdout.splitlines()[-1])
    for name in RECONSTRUCTIONS:
        worker = InProcess(sessions[name].job())
        assert there[name] == digests(worker, plans(sessions[name]))


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_reconstruction_comes_before_fine_tuning_and_never_after(
    sessions: dict[str, Session], name: str
) -> None:
    session = sessions[f"{name}+batch_norm"]
    worker, plain = Worker(session.job()), Worker(sessions["batch_norm"].job())
    wide, narrow = plans(session)[2], plans(session)[0]
    first = worker.run(Work(wide, None, 2, 1))
    assert first.state is not None
    other = plain.run(Work(wide, None, 2, 1))
    assert other.state is not None
    assert state_sha256(first.state) != state_sha256(other.state)
    child = Work(narrow, Start(wide, first.state), None, 1)
    assert worker.run(child).score == plain.run(child).score


def test_a_winners_weights_go_with_it(sessions: dict[str, Session]) -> None:
    for name, session in sessions.items():
        worker, plan = Worker(session.job()), plans(session)[0]
        seen = worker.run(Work(plan, None, None, 0)).score
        final = worker.finalise(plan, None, None, 2)
        assert final.search_score == seen
        assert (final.state is not None) == reconstructs(name)
        if final.state is None:
            continue
        built = compress(session.task.network, session.space.groups, kept_of(plan))
        built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        built.load_state_dict(state_tensors(final.state))
        assert score(built.eval(), session.job().search, session.job().score) == seen
        again = worker.finalise(plan, final.state, None, 0)
        assert again.search_score == seen
        assert again.state is final.state


def test_a_winner_that_scores_otherwise_is_an_error(sessions: dict[str, Session]) -> None:
    session = sessions["least_squares"]
    task = session.search_task(
        "uniform", 0, _scoring(session), lambda widths, _: session.space.plan(widths)
    )
    (best,) = task.evaluate([plans(session)[0]])
    search = Search("uniform", 0, folder_for(session.config))
    workers = InProcess(session.job())
    (final,) = finals(session, [Found(search, [best], best, None, 0.0)], None, workers)
    assert final.state is not None
    other = replace(best, score=best.score + 0.01)
    with pytest.raises(RuntimeError, match="does not score equal networks alike"):
        finals(session, [Found(search, [other], other, None, 0.0)], None, workers)


def _scoring(session: Session) -> ScoringEvaluator:
    return ScoringEvaluator(InProcess(session.job()), session.pricing())


def test_it_recovers_more_than_statistics_alone(sessions: dict[str, Session]) -> None:
    errors = {}
    for name in ("batch_norm", "least_squares+batch_norm", "progressive"):
        session = sessions[name]
        (evaluation,) = _scoring(session).evaluate([_request(session)])
        errors[name] = evaluation.score
        assert "reconstruct_s" in evaluation.observed
    assert errors["batch_norm"] < errors["least_squares+batch_norm"]
    assert errors["batch_norm"] < errors["progressive"]


def _request(session: Session) -> Request:
    return Request(plans(session)[0])


def test_what_the_answer_depends_on_is_on_record(sessions: dict[str, Session]) -> None:
    assert "reconstruction" not in sessions["batch_norm"].facts
    assert sessions["least_squares"].facts["reconstruction"]["ridge"] > 0
    assert len({session.pricing().context for session in sessions.values()}) == len(sessions)


def test_error_curves_stand_on_the_task(sessions: dict[str, Session]) -> None:
    session = sessions["none"]
    task = session.unevaluated_task("uniform")
    curves = task.error_curves
    assert curves is task.error_curves
    for position, site in enumerate(task.sites):
        costs = task.width_costs(position)["latency_s"]
        assert costs.shape == (len(site.widths),)
        widths = list(task.dense_widths)
        assert costs[-1] == pytest.approx(task.cost(widths).latency_s, rel=1e-12)
        widths[position] = site.widths[0]
        assert costs[0] == pytest.approx(task.cost(widths).latency_s, rel=1e-12)
    assert list(curves.sites) == [site.name for site in session.space.sites]
    values = json.loads(json.dumps(curves.as_json()))
    again = pickle.loads(pickle.dumps(curves))  # noqa: S301
    for site in task.sites:
        assert values[site.name] == curves.sites[site.name].relative_error.tolist()
        assert again.at(site.name, site.widths[0]) == curves.at(site.name, site.widths[0]) > 0
        for width in (-1, site.channels + 1):
            with pytest.raises(InputError, match=f"must be 0 to {site.channels}"):
                curves.at(site.name, width)
    with pytest.raises(InputError, match="'fc' has no error curve"):
        curves.at("fc", 1)
    with pytest.raises(InputError, match="no network"):
        _ = toy_task().error_curves


def test_calibration_that_is_not_finite_has_no_error_curves(sessions: dict[str, Session]) -> None:
    session = sessions["none"]
    broken = Data(torch.full_like(session.task.train.inputs[0], torch.nan), None)
    session = replace(session, task=replace(session.task, train=broken))
    with pytest.raises(InputError, match="there are no error curves, as the layers' inputs on"):
        _ = session.error_curves


def test_orders_lead_to_the_plans_of_every_width(sessions: dict[str, Session]) -> None:
    space = sessions["none"].space
    orders = space.orders
    for site in space.sites:
        assert sorted(orders[site.name]) == list(range(site.channels))
        for width in site.widths:
            widths = [width if one is site else one.channels for one in space.sites]
            kept = space.plan(widths).choices[site.name].kept
            assert set(kept) == set(orders[site.name][:width])
