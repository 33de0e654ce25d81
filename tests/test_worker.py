"""A worker's answer depends on its job and the work alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from amc import app
from amc.config import parse_config
from amc.config_sections import ShortTermConfig
from amc.cost import Cost
from amc.data import Data
from amc.evaluation import Evaluation, Request
from amc.reporting import SilentReporter
from amc.session import Session
from amc.task import accuracy
from amc.weights import Weights, state_sha256
from amc.worker import Job, Work, Worker
from search_spaces.channel import ChannelSpace
from tests.conftest import SMALL


def job() -> tuple[Job, ChannelSpace]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(128, 4),
    ).eval()
    inputs = torch.randn(40, 1, 6, 6)
    data = Data(inputs, torch.arange(40) % 4)
    space = ChannelSpace.of(network, (inputs[:1],))
    parts = data[:20], data, data
    short_term = ShortTermConfig().build()
    return Job(network, space.groups, *parts, accuracy, "batch_norm", short_term), space


def test_dropout_draws_the_seed_of_the_work() -> None:
    made, space = job()
    plan = space.plan([4])
    outcomes = []
    for seed, before in ((7, 1), (7, 2), (8, 1)):
        torch.manual_seed(before)
        outcome = Worker(made).run(Work(plan, None, 5, seed))
        assert outcome.state is not None
        outcomes.append(state_sha256(outcome.state))
    assert outcomes[0] == outcomes[1] != outcomes[2]
    finals = []
    for before in (1, 2):
        torch.manual_seed(before)
        final = Worker(made).finalise(plan, None, None, 5)
        assert final.finetuned_state is not None
        finals.append(state_sha256(final.finetuned_state))
    assert finals[0] == finals[1]


def test_scores_are_equal_with_fast_scoring_and_without() -> None:
    made, space = job()
    plan = space.plan([4])
    scores = []
    for fast in (True, False):
        worker = Worker(replace(made, fast_scoring=fast))
        assert (worker.forward.program is not None) == fast
        scores.append(worker.run(Work(plan, None, None, 0)).score)
    assert scores[0] == scores[1]


def test_a_search_cannot_reach_the_test_split() -> None:
    session, test = app.prepare(parse_config(SMALL), SilentReporter())
    assert isinstance(session, Session)
    assert session.task.test is None
    assert test is not None
    unseen = {array.numpy().tobytes() for array in test.inputs[0]}
    made = session.job()
    for split in (made.train, made.search, made.calibration):
        seen = {array.numpy().tobytes() for array in split.inputs[0]}
        assert seen.isdisjoint(unseen)


def test_damaged_weights_are_made_again(tmp_path: Path) -> None:
    made, space = job()
    worker, folder = Worker(made), tmp_path
    request = Request(space.plan([4]), finetune=3)
    work = Work(request.plan, None, 3, 1)
    state = worker.run(work).state
    assert state is not None
    evaluation = Evaluation(
        "k", request, 0.5, Cost(1.0, 1, 1, 1), 0.5, weights_sha256=state_sha256(state)
    )
    first = Weights(folder, lambda _: worker.run(work))
    first.note(evaluation, state)
    first.start("k")
    (file,) = folder.iterdir()
    for damage in (b"garbage", file.read_bytes()[:-4] + b"\x00\x00\x80?"):
        file.write_bytes(damage)
        again = Weights(folder, lambda _: worker.run(work))
        again.note(evaluation)
        found = again.start("k").state
        assert all(np.array_equal(found[name], state[name]) for name in state)
        assert file.read_bytes() != damage
    # What a machine that lost its power left under the right name is not taken for whole.
    file.write_bytes(b"")
    again = Weights(folder, lambda _: worker.run(work))
    again.note(evaluation, state)
    again.start("k")
    assert state_sha256(load_file(file)) == evaluation.weights_sha256
