"""Searches that make layers sparse, from the configuration to plans that are applied again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from agents import AGENTS
from amc import app, applied, finish, planned
from amc.compress import kept_of
from amc.config import parse_config
from amc.deploy import deployed
from amc.errors import InputError
from amc.kernels import core
from amc.kernels.csr import Csr
from amc.kernels.modules import SparseLayer
from amc.kernels.patterns import KEEP, ZEROS, first_violation
from amc.latency import LatencyTable
from amc.plan_file import KERNEL_NAMES, PlanFile, read_plan, schema
from amc.pricing import structure_of
from amc.registry import lookup
from amc.sparsify import LayerPattern, layer_patterns, packed
from amc.task import LoadedTask, load_task
from envs.walk import Course, Walk, steps_of
from search_spaces import SEARCH_SPACES
from search_spaces.fine_grained import FineGrainedSpace
from search_spaces.mixed import MixedSpace
from search_spaces.nm import NMSpace
from search_spaces.patterns import ladder
from tests.conftest import SMALL
from tests.test_network_cost import invented

SPARSE = [name for name in SEARCH_SPACES if name not in ("channel", "depth")]
BUDGETS = {"nm": 0.6, "fine_grained": 0.3, "mixed": 0.3}
BATCH = 64


@cache
def digits() -> LoadedTask:
    return load_task("digits")


@cache
def table_of(space: str, patterns: tuple[str, ...] = (), slower: float = 1.0) -> LatencyTable:
    """Return a table that needs no measuring, of another machine than this one."""
    task = digits()
    options = {"patterns": patterns} if patterns else {}
    its = lookup(SEARCH_SPACES, space, "").of(task.network, task.inputs, **options)
    table = invented(structure_of(task, its, BATCH))
    kernels = {
        key: times if key.startswith("dense") else replace(times, seconds=slower * times.seconds)
        for key, times in table.kernels.items()
    }
    return replace(table, kernels=kernels)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that searches digits and returns the summary's rows."""
    monkeypatch.setattr(finish, "_measure", lambda *_: {})

    def search(space: str, slower: float = 1.0, **values: Any) -> list[dict[str, Any]]:
        target = tmp_path / "table.json"
        patterns = tuple(values.get("sites", {}).get("patterns", ()))
        known = patterns if set(patterns) <= set(ZEROS) and space == "mixed" else ()
        table_of(space, known, slower).save(target)
        config = {
            **SMALL,
            "space": space,
            "budget": {"macs": BUDGETS.get(space, 0.5)},
            "agents": {"uniform": {}},
            "latency": {"target": str(target), "batch_size": BATCH},
            "finetune_steps": 10,
            **values,
        }
        rows: list[dict[str, Any]] = app.search(parse_config(config), tmp_path / "run")["rows"]
        return rows

    return search


def weights_of(row: dict[str, Any], plan: PlanFile, role: str) -> dict[str, torch.Tensor]:
    part = getattr(plan, role)
    assert part is not None
    return dict(load_file(Path(row["plan"]).parent / part.file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "space", [pytest.param(s, marks=[] if s == "nm" else pytest.mark.long) for s in SPARSE]
)
def test_every_agent_searches_every_space(space: str, run: Any) -> None:
    agents: dict[str, Any] = {name: {} for name in AGENTS}
    agents["netadapt"] = {"evaluations": 60, "short_term_steps": 1}
    rows = run(space, agents=agents, evaluations=6, score="agreement", search_images=60)
    assert [row["agent"] for row in rows] == list(AGENTS)
    sparse = 0
    for row in rows:
        assert row["failure"] is None
        assert row["budget_used"] <= 1
        plan = read_plan(Path(row["plan"]))
        jsonschema.validate(json.loads(Path(row["plan"]).read_text()), schema())
        patterns = layer_patterns(plan.plan)
        sparse += len(patterns)
        lacks_channels = any(not choice.kept for choice in plan.plan.choices.values())
        assert plan.schema_version == (2 if lacks_channels else 1)
        if not patterns:
            continue
        for role in ("weights", "finetuned"):
            state = weights_of(row, plan, role)
            for layer, how in patterns.items():
                weight = state[f"{layer}.weight"]
                assert first_violation(weight, how.pattern) is None
                zeros = float((weight == 0).double().mean())
                assert how.sparsity is not None
                assert zeros == pytest.approx(how.sparsity, abs=0.02)
                assert how.kernel in ("dense", KERNEL_NAMES[how.pattern])
    assert sparse > 10


@pytest.mark.parametrize(
    "space", [pytest.param(s, marks=[] if s == "nm" else pytest.mark.slow) for s in SPARSE]
)
def test_a_sparse_plan_is_applied_and_scored_again(space: str, run: Any, tmp_path: Path) -> None:
    (row,) = run(space, sites={"weight_criterion": "second_order"}, recovery="least_squares")
    path = Path(row["plan"])
    *_, facts = planned.accuracy(path, None, None)
    assert facts["reproduced"] is True
    assert read_plan(path).evaluation.weight_criterion == "second_order"
    for source in ("plan", "original"):
        out = tmp_path / f"{source}.safetensors"
        applied.apply(path, out, source, None, None, "unpacked")
    rebuilt, own = (
        load_file(tmp_path / "original.safetensors"),
        load_file(tmp_path / "plan.safetensors"),
    )
    assert all(torch.equal(rebuilt[name], own[name]) for name in own), "it follows from the plan"


def test_under_a_latency_budget_only_layers_that_gain_are_sparse(run: Any) -> None:
    (row,) = run("mixed", budget={"predicted_latency": 0.35}, agents={"random_search": {}})
    plan = read_plan(Path(row["plan"]))
    assert layer_patterns(plan.plan)
    assert all(how.kernel != "dense" for how in layer_patterns(plan.plan).values())


def test_a_budget_of_bytes_keeps_zeros_that_are_no_faster(run: Any) -> None:
    (row,) = run("fine_grained", 10.0, budget={"weight_bytes": 0.4})
    choices = read_plan(Path(row["plan"])).choices
    assert {choice.pattern for choice in choices.values()} == {"csr"}
    assert {choice.kernel for choice in choices.values()} == {"dense"}


@pytest.mark.slow
def test_criteria_and_rungs_change_the_result(run: Any, tmp_path: Path) -> None:
    sites: dict[str, Any] = {"patterns": ["4x1", "2:4"], "sparsities": [0.7]}
    low = {"budget": {"macs": 0.15}}
    (row,) = run(
        "mixed", sites={**sites, "weight_criterion": "wanda", "criterion": "taylor"}, **low
    )
    plan = read_plan(Path(row["plan"])).plan
    assert {how.pattern for how in layer_patterns(plan).values()} == {"4x1", "2:4"}
    shutil.rmtree(tmp_path / "run")
    (other,) = run("mixed", sites={**sites, "criterion": "magnitude_l2"}, **low)
    again = read_plan(Path(other["plan"])).plan
    assert {s: len(c.kept) for s, c in again.choices.items()} == {
        s: len(c.kept) for s, c in plan.choices.items()
    }
    assert kept_of(again) != kept_of(plan), "other channels stay"
    assert other["search_accuracy"] != row["search_accuracy"]


@pytest.mark.parametrize(
    ("space", "sites", "message"),
    [
        ("channel", {"patterns": ["2:4"]}, "sites.patterns is no option of space 'channel'"),
        ("nm", {"round_to": 8}, "sites.round_to is no option of space 'nm'"),
        ("nm", {"patterns": ["csr"]}, "sites.patterns of space 'nm' must be of 2:4, 1:4"),
        ("mixed", {"patterns": ["2:5"]}, "'2:5', which is no pattern; did you mean '2:4'"),
        ("mixed", {"sparsities": [0.9999]}, "must lie above 0 and below 1, a thousandth apart"),
        ("nm", {"weight_criterion": "batch_norm_scale"}, "cannot choose weights: BatchNorm has"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    space: str, sites: dict[str, Any], message: str, run: Any
) -> None:
    with pytest.raises(InputError, match=message):
        run(space, sites=sites)


def test_the_ladder_has_one_pattern_a_density() -> None:
    assert ladder(["2:4", "csr"], [0.5, 0.8]) == {200: "csr", 500: "2:4"}
    assert ladder(["csr", "2:4"], [0.5, 0.8]) == {200: "csr", 500: "csr"}
    assert list(ladder(list(KEEP), [])) == [250, 500]


def test_spaces_have_a_site_for_every_layer_in_order_of_execution() -> None:
    task = digits()
    nm, fine = NMSpace.of(task.network, task.inputs), FineGrainedSpace.of(task.network, task.inputs)
    mixed = MixedSpace.of(task.network, task.inputs)
    assert fine.sites[0].name == "conv1.weight"
    assert [site.name for site in nm.sites] == [site.name for site in fine.sites][1:]
    assert nm.excluded == {"conv1": "it has fewer than 4 input channels"}
    assert [site.layer for site in nm.sites][:2] == ["layer1.0.conv1", "layer1.0.conv2"]
    weights = [site for site in mixed.sites if site.decides == "weights"]
    assert [site.name for site in weights] == [site.name for site in fine.sites]
    assert not mixed.excluded
    few = NMSpace.of(task.network, task.inputs, exclude=["layer1"])
    assert few.excluded["layer1.0.conv1"] == "excluded by sites.exclude"
    with pytest.raises(InputError, match="'layer9', which is no layer"):
        NMSpace.of(task.network, task.inputs, exclude=["layer9"])


def test_a_step_of_a_mixed_walk_decides_channels_and_weights() -> None:
    task = digits()
    space = MixedSpace.of(task.network, task.inputs)
    steps = steps_of(space.sites)
    assert len(steps) < len(space.sites) == sum(map(len, steps))
    for step in steps:
        layers = {space.sites[i].layer for i in step}
        decided = [space.sites[i].decides for i in step]
        assert len(layers) == 1
        assert decided in (["block"], ["channels"], ["weights"], ["channels", "weights"])


def test_the_environment_of_a_mixed_space_takes_a_number_a_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "table.json"
    table_of("mixed").save(target)
    env = app.make_env(
        "digits",
        space="mixed",
        budget={"macs": 0.3},
        latency={"target": str(target), "batch_size": BATCH},
        search_images=40,
    )
    assert env.action_space.shape == (3,)
    env.reset(seed=0)
    done, steps, infos = False, 0, []
    generator = np.random.default_rng(0)
    while not done:
        action = generator.random(3).astype(np.float32)
        observation, _, done, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        infos.append(info)
        steps += 1
    assert steps < len(infos[-1]["widths"]) == len(env.task.sites)
    evaluation = infos[-1]["evaluation"]
    assert env.task.budget.met_by(evaluation.cost)
    walk = Walk(Course(env.task))
    for info in infos:
        walk.step(info["executed_action"])
    assert walk.widths == infos[-1]["widths"], "executed actions mean their widths"


def test_the_published_protocol_searches_weights_too(run: Any) -> None:
    agents = {"ddpg": {"protocol": "published", "evaluations": 6}}
    (row,) = run("fine_grained", agents=agents, budget={"weight_bytes": 0.5}, search_images=40)
    assert row["budget_used"] <= 1
    plan = read_plan(Path(row["plan"])).plan
    assert min(plan.keep_ratios.values()) < 0.2, "its lower bound is of channels"


def test_unknown_patterns_are_refused_everywhere() -> None:
    with pytest.raises(InputError, match="pattern '3:4' is unknown"):
        LayerPattern("3:4")


def test_blocks_are_part_of_mixed_where_they_can_go() -> None:
    task, network = digits(), load_task("mobilenet")
    with_blocks = MixedSpace.of(task.network, task.inputs)
    assert any(site.decides == "block" for site in with_blocks.sites)
    without = MixedSpace.of(task.network, task.inputs, patterns=["2:4", "csr"])
    assert not any(site.decides == "block" for site in without.sites)
    assert MixedSpace.of(network.network, network.inputs).blocks is None, "no shortcut, no block"
    with pytest.raises(InputError, match="'block', but no block of the network takes and returns"):
        MixedSpace.of(network.network, network.inputs, patterns=["csr", "block"])
    with pytest.raises(InputError, match="names 'block' alone"):
        MixedSpace.of(task.network, task.inputs, patterns=["block"])


def test_a_plan_that_is_dense_has_no_masks_to_write(run: Any, tmp_path: Path) -> None:
    (row,) = run("nm", budget={"macs": 1.0})
    with pytest.raises(InputError, match="has no sparse layer to mask; leave --masks out"):
        app.apply(Path(row["plan"]), tmp_path / "masks.safetensors", masks=True)
    with pytest.raises(InputError, match="--masks and --unpacked exclude each other"):
        app.apply(Path(row["plan"]), tmp_path / "m.safetensors", masks=True, unpacked=True)
    with pytest.raises(InputError, match="--masks are written to .safetensors"):
        app.apply(Path(row["plan"]), tmp_path / "m.onnx", masks=True)


@pytest.fixture
def sparse_plan(run: Any) -> Path:
    """Return a plan with layers in several patterns, their kernels as the table has them."""
    sites = {"patterns": ["2:4", "4x1", "csr"], "sparsities": [0.7, 0.9]}
    (row,) = run("mixed", sites=sites, agents={"random_search": {}}, finetune_steps=5)
    return Path(row["plan"])


def outputs_of(network: torch.nn.Module) -> torch.Tensor:
    inputs = digits().search[:20].inputs
    with torch.inference_mode():
        outputs: torch.Tensor = network(*inputs)
    return outputs


def test_a_packed_network_runs_on_its_kernels_and_reloads_bit_for_bit(
    sparse_plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed.safetensors"
    facts = app.apply(sparse_plan, out)
    plan, task = read_plan(sparse_plan), digits()
    assert facts["packed"] is True
    assert facts["sparse_layers"] == len(layer_patterns(plan.plan)) > 2
    network = app.load_packed(out, sparse_plan)
    kernels = {m.kernel for m in network.modules() if isinstance(m, SparseLayer)}
    assert len(kernels) > 1
    plain = planned.build(plan, sparse_plan.parent, task)
    built = packed(deployed(plain, task.inputs), layer_patterns(plan.plan))
    assert torch.equal(outputs_of(network), outputs_of(built))
    torch.testing.assert_close(outputs_of(network), outputs_of(plain), atol=1e-4, rtol=1e-4)
    again = tmp_path / "again.safetensors"
    app.apply(sparse_plan, again)
    first, second = load_file(out), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_plan_applies_under_another_backend_with_the_same_outputs(
    sparse_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "packed.safetensors"
    app.apply(sparse_plan, out)
    here = outputs_of(app.load_packed(out, sparse_plan))
    monkeypatch.setattr(core, "library", lambda: None)
    network = app.load_packed(out, sparse_plan)
    assert Csr.backend().startswith("torch")
    there = outputs_of(network)
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
    assert torch.equal(there.argmax(1), here.argmax(1))


def test_packed_files_that_are_foreign_or_corrupt_are_refused(
    sparse_plan: Path, run: Any, tmp_path: Path
) -> None:
    out = tmp_path / "packed.safetensors"
    app.apply(sparse_plan, out)
    plain = tmp_path / "plain.safetensors"
    app.apply(sparse_plan, plain, unpacked=True)
    with pytest.raises(InputError, match="has plan_digest None, but the plan's is"):
        app.load_packed(plain, sparse_plan)
    with pytest.raises(InputError, match="is not a file; write one with amc apply"):
        app.load_packed(tmp_path / "none.safetensors", sparse_plan)
    with safe_open(out, framework="pt") as opened:
        about = opened.metadata()
    state = load_file(out)
    values = next(name for name in state if name.endswith(".indices"))
    for change, message in (
        ({values: state[values][:-1]}, "`indices` must have"),
        ({values: None}, "is not the plan's packed network"),
        ({"stranger": torch.zeros(1)}, "is not the plan's packed network"),
    ):
        changed = {name: t for name, t in {**state, **change}.items() if t is not None}
        save_file(changed, out, about)
        with pytest.raises(InputError, match=message):
            app.load_packed(out, sparse_plan)
    weights = next(name for name in state if name.endswith(".values"))
    save_file({**state, weights: 3 * state[weights]}, out, about)
    with pytest.raises(InputError, match="holds other values than were written"):
        app.load_packed(out, sparse_plan)
    tuned = app.finetune(sparse_plan, tmp_path / "tuned", {"steps": 2})
    save_file(state, out, about)
    with pytest.raises(InputError, match="has plan_weights"):
        app.load_packed(out, Path(tuned["plan"]))
    app.load_packed(out, sparse_plan)
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not readable safetensors"):
        app.load_packed(out, sparse_plan)


@pytest.mark.slow
def test_a_sparse_plan_is_exported_with_its_zeros(sparse_plan: Path, tmp_path: Path) -> None:
    plan = read_plan(sparse_plan)
    network = planned.build(plan, sparse_plan.parent, digits())
    inputs = digits().search[:20].inputs
    for suffix in ("onnx", "pt2"):
        facts = app.apply(sparse_plan, tmp_path / f"plan.{suffix}")
        assert facts["packed"] is False
    program = torch.export.load(str(tmp_path / "plan.pt2"))
    torch.testing.assert_close(program.module()(*inputs), outputs_of(network), atol=1e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "plan.onnx")
    names = [its.name for its in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, [t.numpy() for t in inputs], strict=True)))
    np.testing.assert_allclose(found, outputs_of(network), atol=1e-4, rtol=1e-4)
    state = {name: tuple(p.shape) for name, p in program.state_dict.items()}
    for layer, how in layer_patterns(plan.plan).items():
        weight = program.state_dict[f"{layer}.weight"]
        assert f"{layer}.weight" in state
        assert first_violation(weight.detach().contiguous(), how.pattern) is None


def test_fine_tuning_a_sparse_plan_keeps_its_zeros(sparse_plan: Path, tmp_path: Path) -> None:
    plan = read_plan(sparse_plan)
    once: dict[str, Any] = {"steps": 12}
    staged = {**once, "stages": 2, "recovery": "least_squares+batch_norm"}
    moving = {**once, "zeros": "sr_ste", "patience": 3, "check_every": 4}
    for number, settings in enumerate((once, staged, moving)):
        out = tmp_path / f"tuned{number}"
        app.finetune(sparse_plan, out, settings)
        before = planned.build(plan, sparse_plan.parent, digits())
        after = load_file(out / "weights.safetensors")
        for layer, how in layer_patterns(plan.plan).items():
            weight, name = after[f"{layer}.weight"], f"{layer}.weight"
            assert not torch.equal(weight, before.state_dict()[name])
            assert first_violation(weight, how.pattern) is None
            own = before.state_dict()[name]
            assert weight.count_nonzero() == own.count_nonzero()
            if number == 0:
                assert torch.equal(weight != 0, own != 0), "the very same zeros"
        *_, facts = planned.accuracy(out / "plan.json", None, None)
        assert facts["reproduced"] is True


@pytest.mark.slow
def test_explain_has_a_curve_for_every_site(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    table_of("mixed").save(target)
    config = {**SMALL, "space": "mixed", "latency": {"target": str(target), "batch_size": BATCH}}
    result = app.explain(parse_config(config), tmp_path / "run")
    for site in result["sites"]:
        errors = site["relative_error"]
        assert errors is not None
        assert errors[-1] == pytest.approx(0, abs=1e-6)
        assert all(0 <= error <= 1 for error in errors)
        assert site["coupling"]["makes"]
