"""``amc bench criteria``: errors of every layer, and where the expected order is broken."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from amc import app_bench
from amc.bench_criteria import ORDER, PATTERNS, criteria
from amc.reporting import SilentReporter
from amc.task import load_task


def test_second_order_loses_less_than_wanda_and_wanda_less_than_magnitude(tmp_path: Path) -> None:
    rows = app_bench.bench_criteria(("resnet8",), out=tmp_path)
    assert json.loads((tmp_path / "criteria.json").read_text()) == rows
    for pattern in PATTERNS:
        by_name = {row["criterion"]: row for row in rows if row["pattern"] == pattern}
        medians = [by_name[name]["median"] for name in ORDER]
        assert medians == sorted(medians)
        assert by_name["second_order"]["median"] < 0.7 * by_name["wanda"]["median"]
        assert (
            by_name["magnitude_l1"]["relative_error"] == by_name["magnitude_l2"]["relative_error"]
        )


def test_layers_out_of_order_are_named() -> None:
    rows = criteria(load_task("digits"), SilentReporter())
    for pattern in PATTERNS:
        errors = {r["criterion"]: r["relative_error"] for r in rows if r["pattern"] == pattern}
        (row,) = (r for r in rows if (r["pattern"], r["criterion"]) == (pattern, "wanda"))
        expected = [n for n, e in errors["wanda"].items() if e > errors["magnitude_l1"][n]]
        assert row["out_of_order"] == expected
        assert "conv1" not in errors["wanda"], "it has a single input channel"
        assert row["median"] == pytest.approx(median(errors["wanda"].values()))
