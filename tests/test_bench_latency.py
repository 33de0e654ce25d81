"""``amc bench latency``: plans are random and mixed, errors are summed up as they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amc import app_bench, bench_latency
from amc.bench_latency import PATTERNS, Settings, error_table
from amc.calibration import TURNS, WholeNetworks
from amc.cli import application
from amc.config_sections import LatencyConfig
from amc.errors import InputError
from amc.latency import LatencyTable
from amc.latency import measure as measuring
from amc.latency.checkpoint import Turn
from amc.latency.clock import Timing, settled
from amc.latency.session import RUNS, Session
from amc.latency.trace import trace_ops
from amc.mixed_plan import random_plans
from amc.pricing import complete_table, patterns_of
from amc.reporting import SilentReporter


def rows(predicted: list[float], measured: list[float], again: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "network": "n",
            "predicted_latency_s": p,
            "measured_latency_s": m,
            "measured_again_s": a,
            "macs": 1000 * (i + 1),
            "noisy": i == 0,
        }
        for i, (p, m, a) in enumerate(zip(predicted, measured, again, strict=True))
    ]


def test_the_error_table_sums_up_known_errors() -> None:
    measured = [1.0, 2.0, 3.0, 4.0]
    (facts,) = error_table(rows([1.04, 1.84, 3.45, 4.0], measured, [1.0, 2.04, 3.0, 4.0]))
    assert facts["within_5"] == 0.5
    assert facts["within_10"] == 0.75
    assert facts["worst"] == pytest.approx(0.15)
    assert facts["rmspe"] == pytest.approx(np.sqrt((0.04**2 + 0.08**2 + 0.15**2) / 4))
    # One of four differs by 2%: a single measurement has half of that variance.
    assert facts["repeatability"] == pytest.approx(np.sqrt(0.02**2 / 4 / 2))
    assert facts["rmspe_net"] == pytest.approx(
        np.sqrt(facts["rmspe"] ** 2 - facts["repeatability"] ** 2)
    )
    assert facts["all_within_10_and_twice_repeatability"] is False
    assert facts["macs_linear_rmspe"] == pytest.approx(0, abs=1e-12)
    assert facts["noisy"] == 1


def test_the_baseline_never_sees_the_plan_that_it_predicts() -> None:
    (facts,) = error_table(rows([1, 2, 9, 4], [1, 2, 9, 4], [1, 2, 9, 4]))
    assert facts["rmspe"] == 0
    # Of the third plan the line through the others says 3.
    assert facts["macs_linear_rmspe"] > (1 - 3 / 9) / 2


def test_plans_are_random_mixed_and_of_the_seed() -> None:
    torch.set_num_threads(1)
    task, space = app_bench.task_and_space("digits")
    plans = random_plans(task, space, 3, 3, PATTERNS)
    again, other = (random_plans(task, space, 3, seed, PATTERNS) for seed in (3, 4))
    assert [p.digest for p in plans] == [p.digest for p in again]
    assert len({p.digest for p in [*plans, *other]}) == 6
    used = {how.pattern for plan in plans for how in plan.layers.values()}
    assert used == set(PATTERNS) - {"dense"}
    ops = trace_ops(plans[0].network(task, space), task.inputs)
    sparse = {op.layer for op in ops if op.template.kernel != "dense"}
    assert sparse == set(plans[0].layers)


@pytest.mark.slow
def test_whole_networks_are_predicted_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PASSES", 1), ("REPEATS", 3), ("ROUNDS", 1), ("DENSE_REPEATS", 4)):
        monkeypatch.setattr(measuring, name, value)
    # In this process: tests/test_apart.py and the next test have processes of their own.
    monkeypatch.setattr(bench_latency, "apart", lambda work, *args: work(*args))
    monkeypatch.setattr("amc.network_structure.DENSITIES", (1, 300, 1000))
    monkeypatch.setattr("amc.latency.overhead.CHAIN_REPEATS", 2)
    torch.set_num_threads(1)
    config = LatencyConfig(batch_size=2)
    patterns = ("dense", "2:4", "csr")
    settings = Settings(app_bench.task_and_space, ("digits",), 2, 0, config, patterns, 0.02, 1, 0.0)
    path = tmp_path / "t.json"
    task, space = app_bench.task_and_space("digits")
    complete_table(task, space, config, path, patterns[1:], SilentReporter())  # quickly, as patched
    found = bench_latency.latency(settings, path, SilentReporter())
    assert [row["network"] for row in found] == ["digits"] * 2
    plans = random_plans(task, space, 2, 0, patterns)
    assert [row["plan_digest"] for row in found] == [plan.digest for plan in plans]
    for row in found:
        assert row["predicted_latency_s"] > 0
        assert row["measured_latency_s"] == pytest.approx(
            row["measured_raw_s"] / row["clock_factor"]
        )
        assert row["measured_again_s"] > 0
    table = LatencyTable.load(path)
    assert list(table.networks) == [f"{task.network_digest}/batch2"]
    assert not path.with_name("t.json.partial").exists()
    json.dumps(found)
    table_of_others = tmp_path / "other.json"
    replace(table, kernel_digest="0" * 64).save(table_of_others)
    with pytest.raises(InputError, match="measured with other kernel sources: 0000"):
        bench_latency.latency(settings, table_of_others, SilentReporter())
    lacking = replace(table, kernels={})
    with pytest.raises(InputError, match=r"never measured"):
        bench_latency.rows_of(settings, "digits", lacking, SilentReporter())


def test_the_command_prints_a_list_or_the_error_table(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows([1.0], [1.0], [1.1])[0]
    row |= {"backend": "torch-2.13.0/oneDNN, sparse torch", "batch_size": 4, "threads": 1,
            "noisy_table": False}  # fmt: skip
    calls: list[Any] = []

    def answer(*given: Any) -> list[dict[str, Any]]:
        calls.append(given)
        return [row]

    monkeypatch.setattr(app_bench, "bench_latency", answer)
    arguments = ["bench", "latency", "--task", "m:f", "--plans", "1", "--seed", "2"]
    done = CliRunner().invoke(application, [*arguments, "--batch-size", "4", "--json"])
    assert json.loads(done.stdout) == [row]
    assert calls[0][:5] == (("m:f",), None, 1, 2, 4)
    done = CliRunner().invoke(application, arguments)
    assert "sparse torch" in done.stdout
    assert "rmspe_net" in done.stdout


@pytest.mark.slow
def test_networks_of_a_table_are_timed_in_a_process_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amc.calibration.PROCESSES", {False: 1})
    task, space = app_bench.task_and_space("digits")
    its = WholeNetworks(task, space, 2, 1, ())
    (process,) = its.processes(SilentReporter(), 0.0)
    turn = process(None)
    expected = {its.dense.key, *(network.key for network in its.compressed())}
    assert set(turn.networks) == expected
    assert {len(timings) for timings in turn.networks.values()} == {RUNS * TURNS[False]}
    assert turn.reference_s > 0
    session = Session([], 1, lambda done, total, what: None)
    session.add_turn(lambda goal_s: turn)
    assert session.networks == turn.networks


def test_what_a_process_timed_on_a_slow_core_does_not_count() -> None:
    goals: list[float | None] = []

    def process(reference_s: float, units: float) -> Callable[[float | None], Turn]:
        def turn(goal_s: float | None) -> Turn:
            goals.append(goal_s)
            return Turn(reference_s, True, [], {"net": [Timing(units, units, True)] * 8})

        return turn

    session = Session([], 1, lambda done, total, what: None)
    session.add_turn(process(1.7, 9.0))
    assert settled(session.networks["net"], 1).median == 9.0
    session.add_turn(process(1.0, 10.0))
    session.add_turn(process(1.1, 10.2))
    assert goals == [None, 1.7, 1.0]
    assert settled(session.networks["net"], 1).median == pytest.approx(10.1)


def test_a_table_is_never_calibrated_on_the_plans_that_test_it() -> None:
    task, space = app_bench.task_and_space("digits")
    own = WholeNetworks(task, space, 32, 1, PATTERNS[1:]).compressed()
    known = {network.key.partition("/")[0] for network in own}
    assert len(known) == len(own) >= 16
    for seed in range(3):
        tested = random_plans(task, space, 20, seed, PATTERNS)
        assert known.isdisjoint(plan.digest for plan in tested)


def test_patterns_are_named_in_a_list() -> None:
    assert patterns_of("dense") == ()
    assert patterns_of("2:4,csr,2:4") == ("2:4", "csr")
    assert set(patterns_of("all")) == {"2:4", "1:4", "csr", "csc", "4x1"}
    with pytest.raises(InputError, match=r"'2:3', which is no pattern; did you mean '2:4'"):
        patterns_of("2:3")


@pytest.mark.parametrize(("option", "value"), [("plans", 0), ("batch_size", -1)])
def test_a_bench_of_nothing_is_refused(option: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{option} must be at least 1"):
        app_bench.bench_latency(**{option: value})  # type: ignore[arg-type]
