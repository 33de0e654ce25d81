"""The whole line on digits: search, replay, plans, apply, evaluate, export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from agents import AGENTS as AGENT_CLASSES
from amc import app, planned
from amc.config import parse_config
from amc.errors import InputError
from amc.evaluation import Request
from amc.journal import read_journal
from amc.kernels.dense import Dense
from amc.plan_file import read_plan, schema
from amc.search_task import SearchTask
from amc.task import load_task
from tests.conftest import SMALL

AGENTS = list(SMALL["agents"])  # type: ignore[call-overload]


def plan_of(run: Path, agent: str) -> Path:
    return run / f"{agent}-s0" / "plan.json"


def comparable(path: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(path.read_text())
    plan["costs"].pop("measured")
    return plan


def test_summary_has_a_row_an_agent(digits_run: Path) -> None:
    rows = json.loads((digits_run / "summary.json").read_text())
    assert [row["agent"] for row in rows] == AGENTS
    for row in rows:
        assert row["budget_used"] <= 1
        assert row["test_images"] == 397
        assert row["recovery"] == "batch_norm"
        assert row["measured_latency_s"] > 0
        assert row["backend"] == Dense.backend()
        assert row["dense"]["test_accuracy"] > 0.9
    by_agent = {row["agent"]: row for row in rows}
    assert by_agent["ddpg"]["evaluations"] == 8
    assert by_agent["ddpg"]["search_accuracy"] >= by_agent["uniform"]["search_accuracy"]


def test_the_family_of_netadapt_is_exported_as_plans(digits_run: Path) -> None:
    folder = digits_run / "netadapt-s0"
    family = json.loads((folder / "family.json").read_text())
    files = sorted((folder / "family").glob("*.json"))
    assert [str(file.relative_to(folder)) for file in files] == [w["plan"] for w in family]
    assert [file.name for file in files[:2]] == ["00.json", "01.json"]
    plans = [read_plan(file) for file in files]
    macs = [plan.costs.predicted.macs for plan in plans]
    assert macs == sorted(set(macs), reverse=True)
    assert plans[0].costs.predicted == plans[0].costs.predicted_dense
    assert macs[-1] <= 0.5 * macs[0] < macs[-2]
    records = {e.key: e for e in read_journal(folder / "journal.jsonl")[1]}
    parents = [records[member["key"]].request.parent for member in family]
    assert parents == [None, None, *(member["key"] for member in family[1:-1])]
    for number in (0, 1, -1):
        *_, result = planned.accuracy(files[number], None, None)
        assert result["reproduced"] is True
        assert result["search_accuracy"] == family[number]["score"]
    assert plans[-1].accuracy.test is None, "the test split is for the search's winner alone"
    assert not (digits_run / "ddpg-s0" / "family").exists()


class AnotherWinner:
    """Names a family that ends with another plan than the best one."""

    def check(self, task: SearchTask) -> None:
        return

    def search(self, task: SearchTask) -> None:
        (dense,) = task.evaluate([task.plan(task.dense_widths)])
        plan = task.plan(task.smallest_widths)
        short, long = task.evaluate([Request(plan, finetune=1), Request(plan, finetune=60)])
        task.family += [dense, short]
        assert task.best() == long


@pytest.mark.usefixtures("unmeasured")
def test_a_family_is_what_the_method_names_and_the_plan_the_best(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AGENT_CLASSES, "another", f"{__name__}:AnotherWinner")
    target = str(digits_run / "uniform-s0" / "target.json")
    latency = {"target": target, "batch_size": 64}
    config = parse_config({**SMALL, "agents": {"another": {}}, "latency": latency})
    (row,) = app.search(config, tmp_path / "run")["rows"]
    scores = []
    for file in ("family/00.json", "family/01.json", "plan.json"):
        *_, result = planned.accuracy(tmp_path / "run" / "another-s0" / file, None, None)
        assert result["reproduced"] is True
        scores.append(result["search_accuracy"])
    assert scores[1] < scores[2] == row["search_accuracy"]


@pytest.mark.slow
@pytest.mark.long
def test_a_plan_of_a_family_finds_the_table_of_its_search(digits_run: Path) -> None:
    result = app.evaluate_plan(digits_run / "netadapt-s0" / "family" / "01.json")
    assert result["note"] is None
    assert result["measured_latency_s"] > 0


@pytest.mark.parametrize("agent", AGENTS)
def test_plan_file_is_valid_and_its_accuracy_reproduced(digits_run: Path, agent: str) -> None:
    path = plan_of(digits_run, agent)
    jsonschema.validate(json.loads(path.read_text()), schema())
    *_, result = planned.accuracy(path, None, None)
    assert result["reproduced"] is True
    assert result["search_accuracy"] == read_plan(path).accuracy.search
    for name in ("tradeoff.png", "keep_ratios.png", "../progress.png"):
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")


def test_evaluate_measures_where_the_table_is_of_this_machine(digits_run: Path) -> None:
    result = app.evaluate_plan(plan_of(digits_run, "netadapt"))
    assert result["reproduced"] is True
    assert result["measured_latency_s"] > 0
    assert result["predicted_latency_s"] != result["measured_latency_s"]
    assert result["backend"] == Dense.backend()


def test_evaluate_names_no_backend_where_nothing_is_measured(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    app.export(digits_run, "uniform", 0, tmp_path / "alone" / "plan.json")
    result = app.evaluate_plan(tmp_path / "alone" / "plan.json")
    assert result["measured_latency_s"] is None
    assert result["backend"] is None
    assert "latency not measured" in result["note"]


def test_published_schema_is_current() -> None:
    published = Path(planned.__file__).parent / "schema" / "plan-v1.json"
    assert json.loads(published.read_text()) == schema()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "agent", [pytest.param(a, marks=[] if a == "ddpg" else pytest.mark.slow) for a in AGENTS]
)
def test_same_seed_same_plan_and_growing_keeps_the_past(
    digits_run: Path, tmp_path: Path, agent: str
) -> None:
    config = parse_config(
        {
            **SMALL,
            "agents": {agent: SMALL["agents"][agent]},  # type: ignore[index]
            "latency": {
                "target": str(plan_of(digits_run, agent).parent / "target.json"),
                "batch_size": 64,
            },
        }
    )
    app.search(config, tmp_path / "run")
    first, second = (comparable(plan_of(r, agent)) for r in (digits_run, tmp_path / "run"))
    first["provenance"].pop("config_digest")  # its latency.target reads 'auto'
    second["provenance"].pop("config_digest")
    assert first == second
    journals = [
        read_journal(r / f"{agent}-s0" / "journal.jsonl")[1] for r in (digits_run, tmp_path / "run")
    ]
    assert [e.key for e in journals[0]] == [e.key for e in journals[1]]
    app.resume(tmp_path / "run", evaluations=12)
    grown = read_journal(tmp_path / "run" / f"{agent}-s0" / "journal.jsonl")[1]
    assert grown[: len(journals[1])] == journals[1]


@pytest.mark.usefixtures("unmeasured")
def test_resume_after_a_cut_journal_ends_with_the_same_plan(
    digits_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    expected = {agent: comparable(plan_of(run, agent)) for agent in AGENTS}
    for agent in AGENTS:
        journal = run / f"{agent}-s0" / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[: 1 + len(lines) // 2]))
        shutil.rmtree(run / f"{agent}-s0" / "weights", ignore_errors=True)
        plan_of(run, agent).unlink()
    app.resume(run)
    assert {agent: comparable(plan_of(run, agent)) for agent in AGENTS} == expected


def test_a_changed_table_is_refused_by_name(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    for target in run.glob("*/target.json"):
        table = json.loads(target.read_text())
        table["reference_s"] *= 1.5
        target.write_text(json.dumps(table))
    with pytest.raises(InputError, match="table_digest was"):
        app.resume(run)


def test_apply_writes_a_smaller_network(digits_run: Path, tmp_path: Path) -> None:
    path = plan_of(digits_run, "netadapt")
    result = app.apply(path, tmp_path / "n.safetensors")
    dense = load_task("digits").network
    assert result["params"] < sum(p.numel() for p in dense.parameters())
    own = load_file(tmp_path / "n.safetensors")
    assert all(
        torch.equal(own[k], v) for k, v in load_file(path.parent / "weights.safetensors").items()
    )
    app.apply(path, tmp_path / "o.safetensors", from_original=True)
    original = load_file(tmp_path / "o.safetensors")
    assert original.keys() == own.keys()
    assert any(not torch.equal(original[k], own[k]) for k in own)


@pytest.mark.slow
def test_onnx_gives_what_torch_gives(digits_run: Path, tmp_path: Path) -> None:
    path, out = plan_of(digits_run, "uniform"), tmp_path / "n.onnx"
    app.apply(path, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["n.onnx"]
    plan = read_plan(path)
    task = planned.load_planned_task(plan, None, None)
    network = planned.build(plan, path.parent, task)
    images = task.search[:7].inputs[0]
    with torch.no_grad():
        expected = network(images).numpy()
    session = onnxruntime.InferenceSession(str(out))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_export_takes_the_weights_along(digits_run: Path, tmp_path: Path) -> None:
    result = app.export(digits_run, "netadapt", 0, tmp_path / "mine.json")
    assert len(result["files"]) == 3
    assert planned.accuracy(tmp_path / "mine.json", None, None)[-1]["reproduced"] is True
    with pytest.raises(InputError, match="agent 'ddgp' is not in run"):
        app.export(digits_run, "ddgp", None, tmp_path / "x.json")


def test_inspect_says_what_is_reachable() -> None:
    result = app.inspect(parse_config(SMALL))
    assert next(site["name"] for site in result["sites"]) == "conv1"
    assert result["excluded"] == {"fc": "its channels are outputs of the network"}
    assert result["backend"] == Dense.backend()
    assert 0 < result["smallest"]["macs"] < 0.5 < result["smallest"]["predicted_latency"] <= 1


def test_an_impossible_budget_leaves_nothing_behind(tmp_path: Path) -> None:
    config = parse_config({**SMALL, "budget": {"macs": 0.01}})
    with pytest.raises(InputError, match=r"budget.macs 0.01 is below the smallest reachable 0\."):
        app.search(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_run_is_not_touched(digits_run: Path) -> None:
    before = (digits_run / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="holds a run of another configuration"):
        app.search(parse_config({**SMALL, "evaluations": 9}), digits_run)
    assert (digits_run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ddpg": {"sigma": 1}}, "agents.ddpg.sigma is not a known option"),
        ({"netadapt": {"evaluations": 0}}, "agents.netadapt.evaluations must be a whole number"),
        ({"netadapt": {"evaluations": 2}}, "evaluations"),
    ],
)
def test_bad_agent_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        app.search(parse_config({**SMALL, "agents": options}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def damaged(run: Path, tmp_path: Path, change: Any) -> Path:
    shutil.copytree(run / "netadapt-s0", tmp_path / "plan")
    path = tmp_path / "plan" / "plan.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(schema_version=3), "schema_version"),
        (lambda p: p.update(extra=1), "extra is not a known key"),
        (lambda p: p.update(network_digest="0" * 64), "the plan is for the network with digest"),
        (lambda p: p["weights"].update(sha256="0" * 64), "but the plan names"),
        (lambda p: p["weights"].update(file="../weights.safetensors"), "weights.file"),
        (lambda p: p["choices"]["conv1"].update(kept=[3, 1]), "ascending"),
        (lambda p: p["choices"]["conv1"].update(kept=[0, 99]), "names channel 99"),
        (lambda p: p["choices"].update(conv9=p["choices"].pop("conv1")), "conv9 is no site"),
    ],
)
def test_damaged_plans_are_refused(
    digits_run: Path, tmp_path: Path, change: Any, message: str
) -> None:
    path = damaged(digits_run, tmp_path, change)
    with pytest.raises(InputError, match=message):
        app.apply(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.usefixtures("unmeasured")
def test_evaluation_leaves_the_agents_generators_alone(digits_run: Path, tmp_path: Path) -> None:
    """An evaluation that draws from every global generator changes nothing that an agent does."""
    from amc import worker

    original = worker.Worker.run

    def drawing(self: worker.Worker, work: worker.Work) -> worker.Outcome:
        import random

        random.random()
        np.random.rand(3)
        torch.rand(3)
        return original(self, work)

    worker.Worker.run = drawing  # type: ignore[method-assign]
    try:
        target = str(plan_of(digits_run, "ddpg").parent / "target.json")
        config = {**SMALL, "agents": {"ddpg": {}}, "latency": {"target": target, "batch_size": 64}}
        app.search(parse_config(config), tmp_path / "run")
    finally:
        worker.Worker.run = original  # type: ignore[method-assign]
    keys = [
        [e.key for e in read_journal(run / "ddpg-s0" / "journal.jsonl")[1]]
        for run in (digits_run, tmp_path / "run")
    ]
    assert keys[0] == keys[1]


@pytest.mark.slow
def test_the_registered_environment_is_the_same_search() -> None:
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    import envs

    env = gymnasium.make(envs.PRUNING, config="digits", budget={"macs": 0.5}, calibration_images=50)
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["budget"] == {"macs": 0.5}
    check_env(env.unwrapped)
    env.reset(seed=0)
    for _ in range(6):
        _, reward, terminated, _, info = env.step(np.array([0.7], np.float32))
    assert terminated
    assert reward == info["evaluation"].score > 0
    task = env.unwrapped.task  # type: ignore[attr-defined]
    assert task.budget.met_by(info["evaluation"].cost)


def test_nan_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "from amc.zoo.digits import digits\n"
        "def task():\n"
        "    made = digits()\n"
        "    made.network.conv1.weight.data[0] = float('nan')\n"
        "    return made\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="weight 'conv1.weight' has NaN"):
        load_task("broken:task")
    with pytest.raises(InputError, match="no module named 'brokn'"):
        load_task("brokn:task")
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_task("digit")
