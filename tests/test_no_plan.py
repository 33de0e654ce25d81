"""A search that finds no plan within the budget is a row too: the rest of the run is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amc import app, finish, planned
from amc.config import SearchConfig, parse_config
from amc.errors import InputError
from amc.run_folder import RunFolder
from tests.conftest import SMALL

# Two iterations of a tenth of the dense network's MACs each end far above half of them.
TOO_FEW = {"schedule": "published", "step": 0.1}


def config_of(digits_run: Path, agents: dict[str, Any], **changes: Any) -> SearchConfig:
    latency = {"target": str(digits_run / "uniform-s0" / "target.json"), "batch_size": 64}
    return parse_config({**SMALL, "agents": agents, "latency": latency, **changes})


@pytest.fixture(scope="module", autouse=True)
def unmeasured() -> Any:
    """Leave out the measurement at the end of a run, which takes seconds and changes no plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_measure", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a run whose first search fails, and what it answered."""
    path = tmp_path_factory.mktemp("no_plan") / "run"
    uri = f"sqlite:///{path.parent}/mlflow.db"
    config = config_of(
        digits_run, {"netadapt": TOO_FEW, "uniform": {}}, evaluations=13, tracking_uri=uri
    )
    return path, app.search(config, path)


def test_the_others_are_finished_and_the_summary_names_the_search(
    run: tuple[Path, dict[str, Any]],
) -> None:
    path, result = run
    lost, kept = result["rows"]
    assert RunFolder.open(path).read_summary() == result["rows"]
    assert json.loads((path / "summary.json").read_text())[1]["plan"] == "uniform-s0/plan.json"
    assert lost.keys() == kept.keys()
    assert lost["failure"] == (
        "netadapt seed 0: none of 13 evaluations met the budget macs 0.5; go on with: amc resume "
        f"{path} --evaluations 26, or raise budget.macs"
    )
    assert lost["evaluations"] == 13
    assert {lost[key] for key in ("plan", "search_accuracy", "test_accuracy", "macs")} == {None}
    assert lost["dense"] == kept["dense"]
    assert kept["failure"] is None
    assert kept["test_accuracy"] > 0
    assert planned.accuracy(Path(kept["plan"]), None, None)[-1]["reproduced"] is True
    assert not (path / "netadapt-s0" / "plan.json").exists()
    for picture in ("progress.png", "netadapt-s0/tradeoff.png"):
        assert (path / picture).read_bytes().startswith(b"\x89PNG")
    assert result["next"][1] == f"amc evaluate {kept['plan']}"


def test_its_family_is_written_all_the_same(run: tuple[Path, dict[str, Any]]) -> None:
    folder = run[0] / "netadapt-s0"
    family = json.loads((folder / "family.json").read_text())
    assert len(family) == 3, "dense and two iterations"
    *_, result = planned.accuracy(folder / family[-1]["plan"], None, None)
    assert result["reproduced"] is True
    assert result["search_accuracy"] == family[-1]["score"]


def test_compare_and_export_cope(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = run
    assert [row["plan"] is None for row in app.compare([path])["rows"]] == [True, False]
    assert app.export(path, None, None, tmp_path / "best.json")["agent"] == "uniform"
    with pytest.raises(InputError, match=r"no plan of agent netadapt, seed any; amc compare"):
        app.export(path, "netadapt", None, tmp_path / "none.json")


def test_mlflow_shows_it_as_failed(run: tuple[Path, dict[str, Any]]) -> None:
    from mlflow import MlflowClient

    assert app.sync(run[0])["left"] == 0, "a busy machine may have left some"
    client = MlflowClient(tracking_uri=f"sqlite:///{run[0].parent}/mlflow.db")
    experiment = client.get_experiment_by_name("amc")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    status = {one.data.tags["agent"]: one.info.status for one in runs}
    assert status == {"netadapt": "FAILED", "uniform": "FINISHED"}


@pytest.mark.slow
def test_resuming_fails_alike_and_with_more_evaluations_ends(
    digits_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    config = config_of(digits_run, {"netadapt": TOO_FEW}, evaluations=13)
    first = app.search(config, path)
    assert first["next"] == [f"amc ui --run-dir {path}"]
    again = app.resume(path)
    assert [row["failure"] for row in again["rows"]] == [row["failure"] for row in first["rows"]]
    (row,) = app.resume(path, evaluations=60)["rows"]
    assert row["failure"] is None
    assert row["budget_used"] <= 1
    assert planned.accuracy(Path(row["plan"]), None, None)[-1]["reproduced"] is True


def test_evaluations_of_the_agents_own_are_named_as_such(digits_run: Path, tmp_path: Path) -> None:
    config = config_of(digits_run, {"netadapt": {**TOO_FEW, "evaluations": 13}})
    (row,) = app.search(config, tmp_path / "run")["rows"]
    assert row["failure"].endswith(
        "raise agents.netadapt.evaluations in a new run, or raise budget.macs"
    )
