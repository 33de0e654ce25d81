"""More evaluations for a run: what was there stays, and whoever does not grow is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.ddpg import DDPGAgent
from amc import app, finish
from amc.config import parse_config
from amc.errors import InputError
from amc.journal import read_journal
from amc.reporting import SilentReporter
from amc.run_folder import RunFolder
from tests.conftest import SMALL

FAST: dict[str, Any] = {
    **SMALL,
    "search_images": 50,
    "calibration_images": 50,
    "finetune_steps": 0,
}
SMALL_AGENT = {"hidden": 32, "batch_size": 16}


@pytest.fixture(autouse=True)
def nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "_measure", lambda *_: {})


class Listener(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def journal(run: Path, agent: str) -> bytes:
    return (run / f"{agent}-s0" / "journal.jsonl").read_bytes()


@pytest.mark.slow
def test_a_search_of_60_grows_to_120_and_keeps_its_first_records(tmp_path: Path) -> None:
    run = tmp_path / "run"
    app.search(parse_config({**FAST, "agents": {"ddpg": SMALL_AGENT}, "evaluations": 60}), run)
    short = journal(run, "ddpg")
    assert short.count(b"\n") == 1 + 60
    app.resume(run, evaluations=120)
    long = journal(run, "ddpg")
    assert long.startswith(short)
    assert long.count(b"\n") == 1 + 120
    config = RunFolder.open(run).config
    assert (config.evaluations, config.horizon) == (120, 60)
    schedules = DDPGAgent().schedule(60), DDPGAgent().schedule(120)
    assert schedules[0] != schedules[1], "or a horizon that is not frozen would not be noticed"


@pytest.mark.long
@pytest.mark.slow
def test_agents_with_evaluations_of_their_own_grow_at_their_own_horizon(tmp_path: Path) -> None:
    run, listener = tmp_path / "run", Listener()
    agents = {"ddpg": {"evaluations": 6}, "random_search": {"evaluations": 30}, "uniform": {}}
    app.search(parse_config({**FAST, "agents": agents}), run)
    before = {name: journal(run, name) for name in agents}
    app.resume(run, 10, listener)
    after = {name: journal(run, name) for name in agents}
    assert all(after[name].startswith(before[name]) for name in agents)
    assert {name: after[name].count(b"\n") - 1 for name in agents} == {
        "ddpg": 10,
        "random_search": 30,
        "uniform": 1,
    }
    assert RunFolder.open(run).config.agents["ddpg"] == {"evaluations": 10, "horizon": 6}
    assert [text for text in listener.said if "does not grow" in text] == [
        "random_search seed 0 does not grow: agents.random_search.evaluations is 30 already, "
        "above 10",
        "uniform seed 0 does not grow: it ends by itself, after 1 evaluation",
    ]
    app.resume(run, 12)
    assert journal(run, "ddpg").startswith(after["ddpg"])
    assert RunFolder.open(run).config.agents["ddpg"] == {"evaluations": 12, "horizon": 6}


def test_an_agents_horizon_is_what_its_schedules_read() -> None:
    def horizon(**more: Any) -> int:
        agents = {"ddpg": {"evaluations": 6, **more}}
        session, _ = app.prepare(parse_config({**FAST, "agents": agents}), SilentReporter())
        return session.unevaluated_task("ddpg").horizon

    assert horizon() == 6
    assert horizon(horizon=400) == 400
    with pytest.raises(InputError, match=r"agents.ddpg.horizon must be a whole number above 0"):
        app.make_agent("ddpg", {"horizon": 0})


@pytest.mark.slow
def test_without_the_cache_equal_plans_are_scored_again(tmp_path: Path) -> None:
    records = {}
    values = {**FAST, "agents": {"ddpg": {"redraws": 0, **SMALL_AGENT}}, "evaluations": 40}
    for cache in (True, False):
        config = parse_config({**values, "cache": cache})
        app.search(config, tmp_path / str(cache))
        records[cache] = read_journal(tmp_path / str(cache) / "ddpg-s0" / "journal.jsonl")[1]
    assert any(record.cached for record in records[True]), "no plan was asked for again"
    assert not any(record.cached for record in records[False])
    assert all("score_s" in record.observed for record in records[False])
    keys = [[(r.key, r.score, r.reward) for r in records[cache]] for cache in (True, False)]
    assert keys[0] == keys[1]
    assert parse_config(values).digest != parse_config({**values, "cache": False}).digest
