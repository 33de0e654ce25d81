"""``amc.apart``: a function in a fresh process, what it tells on the way, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amc.apart import apart
from amc.errors import InputError
from amc.reporting import Reporter, SilentReporter
from tests.processes import alive, soon


class Listening(SilentReporter):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def task(self, description: str, total: int | None) -> Listening:
        self.heard.append((description, total))
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.heard.append((n, note))

    def message(self, text: str) -> None:
        self.heard.append(text)

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *error: object) -> None:
        return


def counting(reporter: Reporter, upto: int) -> tuple[int, int]:
    with reporter.task("counting", upto) as bar:
        bar.advance(upto, "all")
    reporter.message("done")
    return sum(range(upto)), os.getpid()


def failing(reporter: Reporter, how: str) -> None:
    if how == "input":
        raise InputError("field 'x' must be 1; give 1")
    os._exit(7)


def test_the_result_and_what_was_told_come_from_another_process() -> None:
    reporter = Listening()
    total, process = apart(counting, reporter, upto=4)
    assert total == 6
    assert process != os.getpid()
    assert reporter.heard == [("counting", 4), (4, "all"), "done"]


SLEEPS = """
import os, time
from amc.apart import apart
from amc.reporting import Reporter, SilentReporter
def asleep(reporter: Reporter) -> None:
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    apart(asleep, SilentReporter())
"""


def test_its_process_ends_with_a_killed_owner(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SLEEPS)
    owner = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    process = int(owner.stdout.readline())
    assert alive(process)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert soon(lambda: not alive(process))


def test_wrong_input_is_raised_as_it_is_and_a_death_is_told() -> None:
    with pytest.raises(InputError, match="field 'x' must be 1; give 1"):
        apart(failing, SilentReporter(), "input")
    with pytest.raises(RuntimeError, match="exit code 7"):
        apart(failing, SilentReporter(), "death")
