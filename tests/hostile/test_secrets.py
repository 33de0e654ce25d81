"""Nothing of the environment ends in what a search leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amc import app, finish
from amc.config import parse_config
from tests.conftest import SMALL

SECRET = "hunter2-of-the-environment"
NAMES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AMC_TOKEN")


def test_secrets_of_the_environment_are_in_no_file(
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr(finish, "_measure", lambda *_: {})
    latency: dict[str, Any] = {"target": str(digits_run / "uniform-s0/target.json")}
    latency["batch_size"] = 64
    config = parse_config({**SMALL, "agents": {"uniform": {}}, "latency": latency})
    app.search(config, tmp_path / "run")
    app.export(tmp_path / "run", None, None, tmp_path / "out/plan.json")
    app.compare([tmp_path / "run"], html=tmp_path / "page.html")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in "".join(capfd.readouterr())
