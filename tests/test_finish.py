"""The end of a run: what is said where winners cannot be timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from amc import app, finish
from amc.config import parse_config
from amc.reporting import SilentReporter
from tests.conftest import SMALL


class Listener(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_table_of_another_machine_is_named_as_the_reason_for_no_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "is_here", lambda table: False)
    listener = Listener()
    config = parse_config({**SMALL, "agents": {"uniform": {}}, "finetune_steps": 0})
    (row,) = app.search(config, tmp_path / "run", listener)["rows"]
    assert row["measured_latency_s"] is None
    (note,) = [text for text in listener.said if "no latency was measured" in text]
    assert "another number of usable cores" in note
