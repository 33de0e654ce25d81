"""``amc ui``: MLflow's own pages over the runs of a database, on this machine alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from amc.errors import InputError, SearchFailed
from amc.interruption import ended_with_us

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
START_LIMIT_S = 90.0
END_LIMIT_S = 5.0
GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(0, signal.SIGKILL)"
# Variables that would open the server, whatever its options: no checks, any origin, any address.
OPENING = (
    *("MLFLOW_SERVER_", "_MLFLOW_", "MLFLOW_HOST", "MLFLOW_STATIC_PREFIX", "MLFLOW_ALLOW_PICKLE"),
    *("MLFLOW_UVICORN_OPTS", "MLFLOW_GUNICORN_OPTS", "GUNICORN_CMD_ARGS", "UVICORN_"),
)


@dataclass(frozen=True)
class Server:
    """A running MLflow server: where it answers, and the process that leads its group."""

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def serve(uri: str, port: int | None = None, log: Path | None = None) -> Iterator[Server]:
    """Start MLflow's server over the store ``uri``, yield it once it answers, and end it.

    One worker, no job execution, loopback only, and no other name accepted in the Host header.
    Pages of other hosts can neither change anything nor show it in a frame.
    ``port=None`` takes 5000, or a free one where that is taken. Raises ``InputError`` when ``port``
    is taken, and ``SearchFailed`` when the server ends or does not answer within 90 seconds.
    """
    chosen = _port(port)
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(chosen), "--workers", "1"),
        *("--allowed-hosts", f"{HOST}:{chosen},localhost:{chosen}"),
        *("--cors-allowed-origins", f"http://{HOST}:{chosen},http://localhost:{chosen}"),
        *("--x-frame-options", "DENY"),
    ]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(OPENING)},
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Not an argument, which everyone on the machine may read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_TRACKING_URI": uri,
    }
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command, env=environment, stdout=sink, stderr=sink, process_group=0
        )
        stack.enter_context(ended_with_us(partial(os.killpg, process.pid, signal.SIGKILL)))
        stack.callback(end, process)
        stack.enter_context(_guarded(process.pid))
        server = Server(f"http://{HOST}:{chosen}", process)
        _wait_until_it_answers(server)
        yield server


@contextlib.contextmanager
def _guarded(group: int) -> Iterator[None]:
    """Keep a process in the server's ``group`` that kills it should this one be killed.

    It waits for the end of a pipe that nobody else can write to.
    """
    command = [sys.executable, "-I", "-S", "-c", GUARD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=group) as guard:
        try:
            yield
        finally:
            guard.kill()


def end(process: subprocess.Popen[bytes], limit_s: float = END_LIMIT_S) -> None:
    """End the whole process group that ``process`` leads: asked first, killed after ``limit_s``."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            process.poll()
            if not _group_lives(process.pid):
                return
            time.sleep(0.05)


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_it_answers(server: Server) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise SearchFailed(
                f"MLflow's server ended with code {server.process.returncode} before it answered; "
                "see whether the store that --db or MLFLOW_TRACKING_URI names can be reached"
            )
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{server.url}/health", timeout=2) as response,
        ):
            if response.status == 200:
                return
        time.sleep(0.1)
    raise SearchFailed(
        f"MLflow's server did not answer within {START_LIMIT_S:.0f} s; see whether the store that "
        "--db or MLFLOW_TRACKING_URI names can be reached, and whether the machine is busy"
    )


def _port(wanted: int | None) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise InputError(f"--port {wanted} is taken; choose another one, or leave it out")
        return wanted
    if _is_free(DEFAULT_PORT):
        return DEFAULT_PORT
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
