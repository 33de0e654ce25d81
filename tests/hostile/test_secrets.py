"""Nothing of the environment ends in what a search leaves behind."""

from __future__ import annotations

import contextlib
import shutil
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from amc import app, finish
from amc.config import changed, parse_config
from amc.drain_process import draining
from amc.errors import InputError
from amc.run_folder import write_config
from amc.strict_yaml import parse_yaml
from tests.conftest import SMALL
from tests.deliveries import Said, record, until
from tests.fake_mlflow import FakeMlflow

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
    place = str(tmp_path).encode()
    assert [path for path in files if place in path.read_bytes() and path.suffix != ".html"] == []
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    (row,) = app.compare([moved])["rows"]
    assert Path(row["plan"]) == moved / "uniform-s0/plan.json"


PASSWORD = "hunter2/x"
URL = "http://me:hunter2%2Fx@"
BASIC = "Basic bWU6aHVudGVyMi94"
# Variables of the environment (HOST stands for the server), the URI of the configuration, and what
# arrives.
WAYS: dict[str, tuple[dict[str, str], str | None, str]] = {
    "a URI": ({"MLFLOW_TRACKING_URI": URL + "HOST"}, None, BASIC),
    "a URI that the configuration names": (
        {"MLFLOW_TRACKING_URI": URL + "HOST"},
        "http://HOST",
        BASIC,
    ),
    "a user and password": (
        {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": PASSWORD},
        "http://HOST",
        BASIC,
    ),
    "a token": ({"MLFLOW_TRACKING_TOKEN": "hunter2"}, "http://HOST", "Bearer hunter2"),
}
SECRETS = ("hunter2", "bWU6aHVudGVyMi94")


@pytest.mark.usefixtures("own_mlflow")
@pytest.mark.parametrize(
    "way", [way if way == "a URI" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
def test_credentials_reach_the_server_through_the_process_and_stand_nowhere(
    tmp_path: Path,
    fake: FakeMlflow,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    way: str,
) -> None:
    variables, uri, header = WAYS[way]
    host, run, said = fake.url.removeprefix("http://"), tmp_path / "run", Said()
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("HOST", host))
    uri = uri and uri.replace("HOST", host)
    config = parse_config({**SMALL, "tracking_uri": uri})
    run.mkdir()
    write_config(run / "config.yaml", config)
    with draining(run, config.tracking_uri, said) as drain:
        record(run / "ddpg-s0", 2, uri=config.tracking_uri)
        until(lambda: fake.points() == [(1, 0.1), (2, 0.2)])
        assert drain._process is not None
        commands = own_commands()
        assert b"amc.drain" in commands[drain._process.pid]
        fake.mode = "error"
        record(run / "uniform-s0", 2, uri=config.tracking_uri)
    assert fake.authorisation == {header}
    (message,) = said.messages  # which says why some are left
    assert "entries wait for MLflow" in message
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    told = "".join((*said.messages, *capfd.readouterr())).encode()
    texts = [*files, *commands.values(), told]
    for secret in SECRETS:
        assert [text for text in texts if secret.encode() in text] == []


def own_commands() -> dict[int, bytes]:
    """Return the argument lists of every process of this user."""
    commands = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, KeyError):  # one that has ended since
            if process.owner() == getuser():
                commands[int(process.name)] = (process / "cmdline").read_bytes()
    return commands


@pytest.mark.parametrize("command", ["resume", "sync"])
@pytest.mark.parametrize("name", ["USERNAME", "PASSWORD", "TOKEN"])
def test_credentials_go_nowhere_on_the_word_of_a_run_folder(
    digits_run: Path,
    tmp_path: Path,
    fake: FakeMlflow,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "hunter2")
    run = tmp_path / "run"
    shutil.copytree(digits_run / "uniform-s0", run / "uniform-s0")
    config = parse_config({**SMALL, "agents": {"uniform": {}}, "tracking_uri": fake.url})
    write_config(run / "config.yaml", config)
    record(run / "uniform-s0", 2, uri=fake.url)
    with pytest.raises(InputError, match=f"tracking_uri '{fake.url}' .*_{name} of the .*; say"):
        app.resume(run) if command == "resume" else app.sync(run)
    assert fake.calls == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake.url)
    assert app.sync(run)["left"] == 0
    assert len(fake.authorisation) == 1


@pytest.mark.parametrize(
    "override",
    [
        *("tracking_uri={}", "tracking_uri={}: x: y", "tracking_uri={}]: [", "tracking_uri{}"),
        *("tracking_uri.x={}", "tracking_uri=[{}]", "tracking_uri={{a: '{}'}}", "task={}"),
        *("experiment={}", "latency.target={}", "tracking_uri=' {}'", "tracking_uri='{}"),
        "tracking_uri={}" + "x" * 5000,
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(override: str) -> None:
    uri = "http://me:hunter2@host"
    with pytest.raises(InputError) as refused:
        app.inspect(changed(SMALL, [override.format(uri)]))
    assert "nter2" not in str(refused.value)
    for text in ("a: {}: x", "a: '{}", "? {}\n: 1\n? {}\n: 2", "a: b\n{}"):
        with pytest.raises(InputError) as refused:
            parse_yaml(text.format(uri, uri), "c.yaml")
        assert "nter2" not in str(refused.value)
