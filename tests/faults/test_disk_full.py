"""A disk that is full: a clear stop, whole files, and a resume once there is room (R7)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load

from amc.journal import scan
from tests.faults.disk import BALLAST, fill, whole
from tests.faults.driver import command, kill_after
from tests.faults.runs import Reference, config_of

pytestmark = pytest.mark.slow

# Files in the order in which a search writes them; of weights only the digest is their name.
EVERY = ("tradeoff.png", "keep_ratios.png", "progress.png", "summary.json")
PLACES = {
    "ddpg": ("journal.jsonl", "finetuned.safetensors", "plan.json", *EVERY),
    "netadapt": (
        *("journal.jsonl", "SHA256.safetensors", "weights.safetensors"),
        *("finetuned.safetensors", "plan.json", "family/00.json", "family/family.json", *EVERY),
    ),
}

AGAIN = ("plan.json", "family/00.json", "summary.json")


@pytest.mark.parametrize("agent", PLACES)
def test_a_full_disk_is_a_clear_stop_wherever_it_is_met(
    agent: str, tmp_path: Path, disk: Path
) -> None:
    reference, told = Reference(tmp_path, config_of(agent)), tmp_path / "told"
    run = disk / "run"
    assert kill_after(reference.again(run), None, "folder.created:1")
    met = [stopped_at(place, agent, run, told) for place in PLACES[agent]]
    assert met == list(PLACES[agent])
    assert command(["resume", str(run)], told) == 0, told.read_text()
    assert reference.equals(run)
    # Once more, where each of these has an earlier one that is to stay.
    again = [place for place in AGAIN if place in PLACES[agent]]
    assert [stopped_at(place, agent, run, told) for place in again] == again
    assert command(["resume", str(run)], told) == 0, told.read_text()
    assert reference.equals(run)


def stopped_at(place: str, agent: str, run: Path, told: Path) -> str:
    """Go on with a run until ``place`` is to be written, on a full disk; return what it says."""
    before = whole(run)
    code = command(["resume", str(run)], told, (run.parent, place))
    assert (run.parent / BALLAST).exists(), f"{place} was not written"
    (run.parent / BALLAST).unlink()
    assert code == 1, told.read_text()
    assert "Traceback" not in told.read_text()
    check_kept(before, whole(run), PLACES[agent][: PLACES[agent].index(place)])
    check_whole(run)
    return place_of(told.read_text(), run)


def place_of(told: str, run: Path) -> str:
    """Return the file for which there was no space, as the last line says with what to do."""
    last = " ".join(told.rsplit("error: ", maxsplit=1)[-1].split())
    message = re.fullmatch(
        r"no space left for '(.*)'; what was there is whole; free some space; go on with: "
        rf"amc resume {run}",
        last,
    )
    assert message is not None, told
    path = Path(message[1])
    assert path.is_relative_to(run)
    if path.parent.name == "weights":
        return re.sub("^[0-9a-f]{64}", "SHA256", path.name)
    return f"family/{path.name}" if path.parent.name == ".family" else path.name


def check_kept(before: dict[str, bytes], after: dict[str, bytes], written: Sequence[str]) -> None:
    """Assert that all is as it was but for what was ``written`` before the disk was full."""
    names = {name.rpartition("/")[2] for name in written}
    for name, content in before.items():
        path = Path(name)
        if path.parent.name == "weights" or path.name in names:
            continue  # weights that nothing needs are deleted, and can be made again
        assert name in after, name
        assert after[name] == content or path.name == "journal.jsonl", name
        assert after[name].startswith(content), name


def check_whole(run: Path) -> None:
    """Assert that every file is one under its own name, with nothing half beside it."""
    for name, content in whole(run).items():
        path = run / name
        assert not path.name.startswith("."), f"{name} was left behind"
        if path.suffix == ".json":
            json.loads(content)
        elif path.suffix == ".safetensors":
            load(content)
        elif path.suffix == ".png":
            assert content.endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".yaml":
            assert yaml.safe_load(content)["task"] == "digits"
        elif path.suffix == ".jsonl":
            assert not scan(path).torn_bytes


def test_a_search_begins_on_a_full_disk_with_nothing(tmp_path: Path, disk: Path) -> None:
    config, told = tmp_path / "config.yaml", tmp_path / "told"
    config.write_text(yaml.safe_dump(config_of("uniform")))
    fill(disk, 8)
    assert command(["search", str(config), "--run-dir", str(disk / "run")], told) == 1
    assert "error: no space left for " in told.read_text()
    assert "; what was there is whole; free some space" in told.read_text()
    assert [file.name for file in disk.iterdir()] == [BALLAST]
