from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fake_mlflow import FakeMlflow

if TYPE_CHECKING:
    from amc.session import Session
    from amc.worker import Work

SMALL = {
    "task": "digits",
    "budget": {"macs": 0.5},
    "evaluations": 8,
    "walks": 4,
    "agents": {
        "ddpg": {},
        "netadapt": {"evaluations": 24},
        "uniform": {},
        "random_search": {},
    },
    "finetune_steps": 10,
    "calibration_images": 200,
    "latency": {"batch_size": 64},
    "workers": 0,
    "tracking_uri": "off",
}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests' latency tables away from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> None:
    """Let torch use one thread in each of the processes that share the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_calm() -> Iterator[None]:
    """Time at once: how long things take here matters to no test."""
    from amc import calibration, pricing, timing
    from amc.latency import calm, session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calm, "LOOK_S", 0.0)
        patch.setattr(calm, "PATIENCE", 0.0)
        patch.setattr(session, "PATIENCE_S", 0.0)
        patch.setattr(timing, "PATIENCE_S", 0.0)
        patch.setattr(timing, "TURNS", 3)
        patch.setattr(timing, "PRECISION", math.inf)
        patch.setattr(pricing, "PATIENCE_S", 0.0)
        patch.setattr(calibration, "PROCESSES", {False: 0, True: 0})
        yield


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of every agent on digits, evaluated in process."""
    from amc import app
    from amc.config import parse_config

    path = tmp_path_factory.mktemp("runs") / "digits"
    app.search(parse_config(SMALL), path)
    return path


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says how scores of ``tests.failing`` fail; it says that they do not."""
    from tests.failing import VARIABLE

    file = tmp_path / "fault"
    file.write_text("none")
    monkeypatch.setenv(VARIABLE, str(file))
    return file


def random_works(session: Session, count: int) -> list[Work]:
    """Return so many different plans to score."""
    from amc.bench_evaluation import random_plans
    from amc.worker import Work

    return [Work(plan, None, None, 0) for plan in random_plans(session, count, 0)]


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the measurement at the end of a run, which takes seconds and changes no plan."""
    from amc import finish

    monkeypatch.setattr(finish, "_measure", lambda *_: {})


@pytest.fixture
def own_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the user's MLflow out of it, and give up soon."""
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeMlflow]:
    """A tracking server that can fail."""
    with FakeMlflow(tmp_path / "artifacts").serving() as server:
        yield server
