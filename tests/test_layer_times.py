"""Times layer by layer: all layers are there, sparse ones by their kernel, sums make sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from amc import app, planned, timing
from amc.deploy import deployed
from amc.latency import LatencyTable
from amc.latency.trace import network_latency
from amc.layer_times import layer_times
from amc.sparsify import LayerPattern, sparsified
from tests.test_pattern_costs import mixed


def test_layers_are_predicted_by_the_table_and_measured_one_by_one() -> None:
    task, _, _, table = mixed()
    network = sparsified(
        deployed(task.network, task.inputs),
        {"layer1.0.conv1": LayerPattern("2:4"), "layer2.0.conv2": LayerPattern("csr", 0.8)},
    )
    rows = layer_times(network, task.batch(2), table, 2.0)
    kernels = {row["layer"]: row["kernel"] for row in rows}
    assert kernels["layer1.0.conv1"] == "nm"
    assert kernels["layer2.0.conv2"] == "csr"
    assert kernels["conv1"] == "dense"
    assert rows[0]["layer"] == "conv1"
    assert rows[-1]["layer"] == "fc"
    total = sum(row["predicted_latency_s"] for row in rows)
    switches = network_latency(network, task.batch(2), table) - total
    assert 0 <= switches < 4 * table.call_overhead_s["dense_after_sparse"] + 1e-12
    assert all(row["measured_latency_s"] > 0 for row in rows)


class Slow(nn.Module):
    """A layer that takes its time a hundred times over, and a quick one."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.quick = nn.Linear(256, 256), nn.Linear(256, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slow(x)
        for _ in range(100):
            x = torch.relu(x @ self.slow.weight)
        return self.quick(x)  # type: ignore[no-any-return]


def test_functions_count_for_the_layer_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyTable, "latency", lambda *_: 1e-6)
    rows = layer_times(Slow().eval(), (torch.rand(8, 256),), mixed()[3], 1.0)
    slow, quick = rows
    assert (slow["layer"], quick["layer"]) == ("slow", "quick")
    assert slow["predicted_latency_s"] == pytest.approx(201e-6)
    assert slow["measured_latency_s"] > quick["measured_latency_s"]


class Untraced(nn.Module):
    """Functions before the first layer, and a block of its own functions."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8))
        self.block.register_forward_hook(lambda *given: torch.relu(given[2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block((x - 0.5) / 2)  # type: ignore[no-any-return]


def test_what_is_not_known_is_said_to_be_so() -> None:
    rows = layer_times(Untraced().eval(), (torch.rand(2, 8),), mixed()[3], 1.0)
    by_layer = {row["layer"]: row for row in rows}
    assert by_layer[""]["measured_latency_s"] is None
    assert by_layer["block.0"]["measured_latency_s"] > 0
    assert by_layer["block.0"]["predicted_latency_s"] is None, "the table lacks this layer"


@pytest.mark.slow
def test_evaluate_shows_layers_size_and_a_warning_where_prediction_is_off(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = digits_run / "uniform-s0" / "plan.json"
    facts = app.evaluate_plan(plan)
    assert facts["layers"][0]["layer"] == "conv1"
    assert 0.9 < facts["size_bytes"] / (4 * facts["params"]) < 1.1
    real = timing.measure_deployed

    def slower(*args: object) -> dict[str, object]:
        measured = real(*args)  # type: ignore[arg-type]
        own = measured["plan"]
        return {**measured, "plan": replace(own, measured_latency_s=9.0, noisy=False)}

    monkeypatch.setattr(planned, "measure_deployed", slower)
    warning = app.evaluate_plan(plan)["warning"]
    assert "predicted latency is -100% off the measured one; `amc measure`" in warning
