"""``amc ui``: MLflow's server, on loopback, ended with all that it started."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from amc.errors import InputError
from amc.ui import end, serve

ROOT = Path(__file__).resolve().parent.parent

JSON = {"Content-Type": "application/json"}
OPEN = {  # what would open the server to everybody, were it passed on
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
    "MLFLOW_SERVER_X_FRAME_OPTIONS": "NONE",
    "MLFLOW_HOST": "0.0.0.0",
}


def start(folder: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start ``amc ui`` in ``folder``; return its process and what it says once it answers."""
    (folder / "mlflow.db").touch()
    program = "from amc.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "ui", "--db", "mlflow.db", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **OPEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1].rstrip() != "}":
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        lines.append(line)
    return process, json.loads("".join(lines))


def test_ui_answers_on_loopback_and_leaves_no_process(tmp_path: Path) -> None:
    process, facts = start(tmp_path)
    url, group = facts["url"], facts["pid"]
    assert status(f"{url}/health") == 200
    port, experiments = url.rpartition(":")[2], f"{url}/api/2.0/mlflow/experiments"
    assert status(f"{experiments}/search?max_results=1", Host=f"localhost:{port}") == 200
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", int(port))) == errno.ECONNREFUSED, "all addresses"
    for host in ("evil.com", "localhost", "10.evil.com", f"127.0.0.1.evil.com:{port}"):
        assert status(f"{experiments}/search?max_results=1", Host=host) == 403, host
    for origin in ("http://evil.com", "null", "http://localhost.evil.com"):
        made = status(f"{experiments}/create", b'{"name": "x"}', Origin=origin, **JSON)
        assert made == 403, origin
    with urllib.request.urlopen(url, timeout=30) as page:
        assert page.headers["X-Frame-Options"] == "DENY"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    process.communicate()
    assert ended(group)


@pytest.mark.slow
def test_a_server_does_not_outlive_a_killed_ui(tmp_path: Path) -> None:
    process, facts = start(tmp_path)
    assert status(f"{facts['url']}/health") == 200
    process.kill()
    process.communicate()
    assert ended(facts["pid"])


def ended(group: int) -> bool:
    """Return whether no process of the group is left, soon."""
    deadline = time.monotonic() + 30
    while group_lives(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not group_lives(group)


def status(url: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_port_that_is_taken_is_bad_input() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port} is taken"), serve("unused", port):
            pass


@pytest.mark.slow
def test_a_server_that_cannot_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with code"), serve("no-such-store://x"):
        pass


def test_a_group_that_ignores_the_question_is_killed() -> None:
    code = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.fork(); "
        "print(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    end(process, limit_s=0.2)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
