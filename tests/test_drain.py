"""The drain: nothing lost and nothing twice, whatever MLflow does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amc.delivery import STATE
from amc.drain import Drain, left_in
from amc.outbox_lines import FILE
from tests.deliveries import assert_exact, record, rounds
from tests.fake_mlflow import FakeMlflow

pytestmark = pytest.mark.usefixtures("own_mlflow")


@pytest.mark.parametrize("mode", ["error", "lose"])
def test_each_call_failing_once_leaves_exact_counts(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("amc.delivery.METRICS_PER_CALL", 3)
    record(tmp_path / "run" / "ddpg-s0", 10)
    endpoints = ("experiments/get-by-name", "experiments/create", "runs/search", "runs/create")
    for endpoint in (*endpoints, "runs/log-batch", "metrics/get-history", "runs/update"):
        fake.failures[endpoint] = [mode, "work", mode, mode, "work", "work", mode]
    assert rounds(tmp_path / "run", fake.url) > 10
    assert_exact(fake, 10)


def test_a_drain_that_dies_between_delivery_and_its_note_sends_nothing_twice(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amc.delivery.METRICS_PER_CALL", 3)
    record(tmp_path / "run" / "ddpg-s0", 10)
    real, died = Path.replace, 0

    def dies(self: Path, target: Path) -> Path:
        nonlocal died
        if Path(target).name == STATE and died % 2 == 0:
            died += 1
            raise KeyboardInterrupt
        died += Path(target).name == STATE
        return real(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    for _ in range(100):
        try:
            assert rounds(tmp_path / "run", fake.url) == 0
            break
        except KeyboardInterrupt:
            continue
    assert died > 10
    assert_exact(fake, 10)


def test_a_run_made_twice_by_a_late_answer_goes(tmp_path: Path, fake: FakeMlflow) -> None:
    record(tmp_path / "run" / "ddpg-s0", 4)
    start = json.loads((tmp_path / "run" / "ddpg-s0" / FILE).read_text().splitlines()[0])
    real, late = fake.answer, iter([True])

    def answer(endpoint: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if endpoint == "runs/log-batch" and next(late, False):
            tag = {"key": "amc.search", "value": start["identity"]}
            real("runs/create", {"experiment_id": "1", "tags": [tag]})
        return real(endpoint, asked)

    fake.answer = answer  # type: ignore[method-assign]
    assert rounds(tmp_path / "run", fake.url) == 0
    assert_exact(fake, 4)


def test_the_run_that_an_earlier_version_made_is_gone_on_with(
    tmp_path: Path, fake: FakeMlflow
) -> None:
    folder = tmp_path / "run" / "ddpg-s0"
    record(folder, 4)
    rounds(tmp_path / "run", fake.url)
    (made,) = fake.runs.values()
    made["tags"]["amc.search"] = f"{tmp_path}/run/run/ddpg-s0"
    (folder / FILE).unlink()
    (folder / "journal.jsonl").write_text("{}\n{}\n")
    record(folder, 6)
    rounds(tmp_path / "run", fake.url)
    (again,) = fake.runs.values()
    assert again is made
    assert fake.points() == [(i, i / 10) for i in range(1, 7)]


def test_what_a_store_refuses_holds_up_no_other_search(tmp_path: Path, fake: FakeMlflow) -> None:
    for name in ("a-s0", "b-s0"):
        record(tmp_path / "run" / name, 4)
    first = json.loads((tmp_path / "run" / "a-s0" / FILE).read_text().splitlines()[0])
    real = fake.answer

    def answer(endpoint: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if endpoint == "runs/create" and first["identity"] in str(asked):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"}
        return real(endpoint, asked)

    fake.answer = answer  # type: ignore[method-assign]
    trouble = Drain(tmp_path / "run", fake.url).round(lambda *_: None)
    assert trouble is not None
    assert "not this one" in trouble
    assert_exact(fake, 4)
    assert left_in(tmp_path / "run", fake.url)[:2] == (7, 14)


def test_a_server_that_hangs_is_given_up_and_asked_again(
    tmp_path: Path, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    record(tmp_path / "run" / "ddpg-s0", 4)
    fake.failures["runs/log-batch"] = ["work", "hang"]
    assert rounds(tmp_path / "run", fake.url) == 1
    assert_exact(fake, 4)
