"""A first Ctrl-C or SIGTERM ends a process in order, a later one at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amc import interruption
from amc.interruption import ONE_S, Interruption, ended_with_us
from tests.processes import alive, soon

ROOT = Path(__file__).resolve().parent.parent
HANGS = """
import subprocess, time
from amc.interruption import Interruption, ended_with_us
Interruption().install()
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True)
with ended_with_us(child.kill):
    try:
        print(child.pid, flush=True)
        time.sleep(600)
    finally:
        print("ending", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_that_hangs_is_ended(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(number)
    assert process.stdout.readline() == "ending\n"

    def ended() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    assert soon(ended)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "interrupted again: ended at once"
    assert soon(lambda: not alive(child))


def test_signals_of_one_moment_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, left = [100.0], list[object]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(interruption.os, "_exit", left.append)  # type: ignore[attr-defined]
    monkeypatch.setattr(interruption.os, "write", lambda *_: None)  # type: ignore[attr-defined]
    handle = Interruption()
    with ended_with_us(lambda: left.append("gone")):
        handle.arrived(signal.SIGALRM)
        handle.arrived(signal.SIGTERM)
        for after_s in (0.0, ONE_S / 2):
            now[0] = 100.0 + after_s
            handle.arrived(signal.SIGINT)
        now[0] = 100.0 + 2 * ONE_S
        handle.arrived(signal.SIGALRM)
        assert not left
        handle.arrived(signal.SIGINT)
        assert left == ["gone", 130]
    handle.arrived(signal.SIGINT)
    assert left == ["gone", 130, 130]
