"""A run folder is one run: what it began with, who goes on with it, and what is left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from amc import app, driven, run_folder
from amc.config import parse_config
from amc.config_identity import differing_of_search
from amc.delivery import STATE
from amc.drain import only_one
from amc.errors import InputError
from amc.growth import grown
from amc.leftovers import remove_abandoned, remove_leftovers
from amc.ownership import owned
from amc.run_folder import RunFolder
from tests.conftest import SMALL

FACTS = {name: {"network_digest": "a"} for name in SMALL["agents"]}  # type: ignore[attr-defined]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has not begun."""
    RunFolder.create(tmp_path / "run", app.frozen(parse_config(SMALL)), FACTS, {"a": 1})
    return tmp_path / "run"


def edit(run_dir: Path, **changes: Any) -> None:
    file = run_dir / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def again(run_dir: Path, **changes: Any) -> RunFolder:
    return RunFolder.open(run_dir).again(app.frozen(parse_config({**SMALL, **changes})))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"walks": 8}, ": walks is 4 on record and 8 here; choose another --run-dir"),
        ({"cache": False}, ": cache is True on record and False here;"),
        (
            {"budget": {"params": 0.5}},
            "budget.macs is 0.5 on record and absent here",
        ),
        ({"agents": {**SMALL["agents"], "ddpg": {"redraws": 0}}}, "agents.ddpg.redraws is absent"),  # type: ignore[dict-item]
        ({"sites": {"round_to": 2}}, "sites.round_to is 4 on record and 2 here"),
        ({"evaluations": 20}, "evaluations is 8 on record and 20 here, horizon is 8"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    run: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        again(run, **changes)
    assert expected in str(caught.value)
    assert "may change evaluations, which only grow, and workers, attempts" in str(caught.value)
    longer = f"go on with that one: amc resume {run} --evaluations 20 "
    assert (longer in str(caught.value)) is ("evaluations" in changes)


def test_what_does_not_count_may_be_another(run: Path) -> None:
    changed = again(run, workers=2, attempts=3, experiment="x", tracking_uri=None)
    assert (changed.config.workers, changed.config.attempts) == (2, 3)
    changed.save()
    assert RunFolder.open(run).config == changed.config
    before = (run / "config.yaml").stat().st_ino
    changed.save()
    assert (run / "config.yaml").stat().st_ino == before, "nothing to write"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"walks": 3}, "is not what ddpg-s0 began with: walks is 4 on record and 3 there; put"),
        ({"recovery": "none"}, "recovery is 'batch_norm' on record and 'none' there"),
        ({"sites": {"exclude": ["conv1"]}}, "sites.exclude is [] on record and ['conv1'] there"),
        ({"cache": False}, "cache is True on record and False there"),
        ({"horizon": 20}, "horizon is 8 on record and 20 there"),
        ({"evaluations": 7}, "evaluations is 8 on record and 7 there"),
        (
            {"agents": {**SMALL["agents"], "netadapt": {"evaluations": 30}}},  # type: ignore[dict-item]
            "began with: agents.netadapt.horizon is 24 on record and 30 there",
        ),
        ({"seeds": [0, 1]}, "ddpg-s1/config.yaml' is missing"),
        ({"agents": {**SMALL["agents"], "evolution": {}}}, "evolution-s0/config.yaml' is missing"),  # type: ignore[dict-item]
    ],
)
def test_a_configuration_that_was_edited_is_refused(
    run: Path, changes: dict[str, Any], expected: str
) -> None:
    edit(run, **changes)
    with pytest.raises(InputError) as caught:
        app.resume(run)
    assert expected in str(caught.value)
    assert not list(run.glob("*/outbox.jsonl"))


def test_a_run_may_grow_by_hand_and_change_where_it_is_made(run: Path) -> None:
    edit(run, evaluations=10, attempts=2, data_folder="elsewhere")
    RunFolder.open(run).check_searches()
    edit(run, **grown(RunFolder.open(run).config, 30))
    RunFolder.open(run).check_searches()
    edit(run, **grown(RunFolder.open(run).config, 40))
    grown_twice = RunFolder.open(run)
    grown_twice.check_searches()
    assert grown_twice.config.agents["netadapt"] == {"evaluations": 40, "horizon": 24}
    creation = parse_config(yaml.safe_load(grown_twice.searches[0].creation.read_text()))
    assert creation.evaluations == 8, "as at the creation, whatever came later"
    assert differing_of_search(creation, grown_twice.config) == {}


def test_a_search_of_another_agent_is_no_search_of_this_run(run: Path) -> None:
    shutil.copy(run / "uniform-s0" / "config.yaml", run / "ddpg-s0" / "config.yaml")
    with pytest.raises(InputError, match="is not of ddpg seed 0; restore it"):
        app.resume(run)


def test_fewer_evaluations_than_are_on_record_are_refused(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    for file in run.rglob("config.yaml"):
        file.write_text(file.read_text().replace("evaluations: 8", "evaluations: 6"))
    before = (run / "summary.json").read_bytes()
    with pytest.raises(InputError, match=r"ddpg-s0.* holds 8 evaluations, but .* is 6 .*: put 8"):
        app.resume(run)
    assert (run / "summary.json").read_bytes() == before


@pytest.mark.parametrize("command", ["resume", "search"])
def test_a_run_is_read_by_its_owner(
    run: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process made the run longer before this one came to own it."""
    seen: list[int] = []

    @contextmanager
    def after_another(folder: Path, patience_s: float) -> Iterator[None]:
        more = grown(RunFolder.open(run).config, 100)
        edit(run, **more)
        with owned(folder, patience_s=patience_s):
            yield

    def make(folder: RunFolder, *_: Any, **__: Any) -> dict[str, Any]:
        seen.append(folder.config.evaluations)
        folder.save()
        return {"rows": []}

    monkeypatch.setattr(driven, "owned", after_another)
    monkeypatch.setattr(app, "_run", make)
    if command == "resume":
        app.resume(run, workers=1)
        assert seen == [100]
        with pytest.raises(InputError, match="evaluations 60 is below the run's 100"):
            app.resume(run, evaluations=60)
    else:
        with pytest.raises(InputError, match="evaluations is 100 on record and 8 here"):
            app.search(parse_config(SMALL), run)
    assert RunFolder.open(run).config.evaluations == 100


def test_what_is_no_run_is_given_no_lock(tmp_path: Path) -> None:
    (tmp_path / "photograph").touch()
    with pytest.raises(InputError, match="is no run folder"):
        app.resume(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photograph"]


def test_a_new_run_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_sync, real_rename = os.fsync, Path.rename
    lasting: dict[str, set[str]] = {}  # by place, what a power cut would leave in it
    kept: dict[str, set[str]] = {}

    def sync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        inside = place.iterdir() if place.is_dir() else ()
        lasting[str(place)] = {entry.name for entry in inside}
        real_sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        if target == tmp_path / "run":
            for place, folders, files in os.walk(self):
                assert lasting[place] >= {*folders, *files}
                kept[place] = lasting[place]
                for name in files:
                    # Written under a temporary name, which is what was synced.
                    assert any(one.startswith(f"{place}/.{name}.") for one in lasting)
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    RunFolder.create(tmp_path / "run", parse_config(SMALL), FACTS, {"a": 1})
    assert len(kept) == 1 + len(FACTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


LEFTOVERS = (
    *(".config.yaml.abcdefgh", ".summary.json.a_3bcdef", "ddpg-s0/.journal.jsonl.00000000"),
    *("ddpg-s0/.plan.json.abcdefgh", "ddpg-s0/.tradeoff.png.abcdefgh", f".{STATE}.abcdefgh"),
    *("netadapt-s0/weights/.0a.safetensors.abcdefgh", "netadapt-s0/family/.00.json.abcdefgh"),
)
OTHERS = (
    *(".notes.template", ".config.yaml.abcdefg", ".config.yaml.ABCDEFGH", "config.yaml.abcdefgh"),
    *("mine/.plan.json.abcdefgh", "ddpg-s0/plan-finetuned/.plan.json.abcdefgh"),
    *(".config.yaml.abcdefgh.bak", "ddpg-s0/.plan.json.abcdefgh/inside"),
)


def test_the_owner_removes_what_killed_writes_left_and_nothing_else(
    run: Path,
) -> None:
    linked = run / "mine" / "linked"
    for path in (*(run / name for name in OTHERS), linked):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in LEFTOVERS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        if not (run / name).is_dir():
            (run / name).touch()
    (run / ".target.json.zzzzzzzz").symlink_to(linked)
    before = {path for path in run.rglob("*") if not path.is_dir()}
    with only_one(run) as mine:
        assert mine
        remove_leftovers(run)
        assert (run / f".{STATE}.abcdefgh").exists(), "a delivery may be writing it"
    with driven.driven(run):
        pass
    gone = {path.relative_to(run).as_posix() for path in before if not path.is_symlink()}
    gone -= {path.relative_to(run).as_posix() for path in run.rglob("*")}
    assert gone == {name for name in LEFTOVERS if name != "ddpg-s0/.plan.json.abcdefgh"}
    assert (run / ".target.json.zzzzzzzz").is_symlink()
    assert linked.exists()


def test_creations_that_were_killed_are_removed_and_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = parse_config(SMALL), tmp_path / "run"

    class Killed(BaseException):
        """The end of the process."""

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.shutil, "rmtree", lambda *_, **__: None)  # type: ignore[attr-defined]
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            RunFolder.create(path, config, FACTS, {})
    (left,) = tmp_path.iterdir()
    other = [tmp_path / name for name in (".run-abcdefgh", ".other-abcdefgh", ".run-abcdefghi")]
    for folder in other[1:]:
        shutil.copytree(left, folder)
    RunFolder.create(tmp_path / "elsewhere" / "run", config, FACTS, {})
    (tmp_path / "elsewhere" / "run").rename(other[0])  # a run of this name, of whatever kind
    with owned(left):
        remove_abandoned(path)
        assert left.is_dir(), "somebody is building it"
    RunFolder.create(path, config, FACTS, {})
    assert {entry.name for entry in tmp_path.iterdir()} == {
        *("run", "elsewhere"),
        *(folder.name for folder in other),
    }
