"""``amc search --explain``: error, latency and cost of every width, coupling, budget, picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from amc import app
from amc.assembly import make_space
from amc.cli import application
from amc.cli.explanation_tables import show_explanation
from amc.config import parse_config
from amc.cost import cost_of
from amc.explanation_plots import error_and_latency
from amc.plots import BLUE, ORANGE
from amc.pricing import cost_model
from amc.reporting import SilentReporter
from amc.task import load_task
from tests.conftest import SMALL
from tests.test_plots import colours, rgb

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
NAMES = {"type": "array", "items": {"type": "string"}}


def exactly(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SITE = exactly(
    name={"type": "string"},
    kind={"enum": ["conv", "linear"]},
    channels={"type": "integer", "minimum": 1},
    widths={"type": "array", "items": {"type": "integer"}},
    relative_error={"anyOf": [NUMBERS, {"type": "null"}]},
    predicted_latency_s=NUMBERS,
    predicted_latency_saved_s=NUMBERS,
    macs_saved={"type": "array", "items": {"type": "integer"}},
    params_saved={"type": "array", "items": {"type": "integer"}},
    coupling=exactly(makes=NAMES, passes=NAMES, uses=NAMES, why=NAMES),
    neighbours={
        "type": "array",
        "items": exactly(**{key: {"type": "string"} for key in ("site", "layer", "why")}),
    },
)
NUMBER = {"type": "number"}
EXPLANATION = exactly(
    task={"type": "string"},
    backend={"type": "string"},
    batch_size={"type": "integer"},
    threads={"type": "integer"},
    calibration_images={"type": "integer"},
    budget=exactly(
        key={"enum": ["predicted_latency", "macs", "params", "weight_bytes"]},
        fraction=NUMBER,
        limit=NUMBER,
        dense=NUMBER,
        smallest=NUMBER,
        smallest_fraction=NUMBER,
        smallest_widths={"type": "object", "additionalProperties": {"type": "integer"}},
        reachable={"type": "boolean"},
    ),
    dense=exactly(macs=NUMBER, params=NUMBER, weight_bytes=NUMBER, predicted_latency_s=NUMBER),
    sites={"type": "array", "items": SITE},
    excluded={"type": "object", "additionalProperties": {"type": "string"}},
    notes=NAMES,
    picture={"type": "string"},
)


class Watching(SilentReporter):
    """Counts what a bar was told."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done = 0

    def task(self, description: str, total: int | None) -> Watching:
        self.totals[description] = total
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *error: object) -> None:
        return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explained")


@pytest.fixture(scope="module")
def reporter() -> Watching:
    return Watching()


@pytest.fixture(scope="module")
def explained(folder: Path, reporter: Watching, digits_run: Path) -> dict[str, Any]:
    """The explanation of the digits network, with the latency table of the finished run."""
    target = str(digits_run / "uniform-s0" / "target.json")
    config = parse_config({**SMALL, "latency": {"batch_size": 64, "target": target}})
    return app.explain(config, folder / "run", reporter)


def test_the_explanation_has_its_keys_and_no_others(explained: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(json.dumps(explained, allow_nan=False)), EXPLANATION)


def test_curves_are_those_of_the_task_and_of_the_cost_model(
    explained: dict[str, Any], digits_run: Path
) -> None:
    target = str(digits_run / "uniform-s0" / "target.json")
    config = parse_config({**SMALL, "latency": {"batch_size": 64, "target": target}})
    task = load_task(config.task, config.data, None)
    space = make_space(config, task)
    model = cost_model(task, space, config.latency, SilentReporter())
    dense = [site.channels for site in space.sites]
    whole = cost_of(model, dense)
    assert [site["name"] for site in explained["sites"]] == [site.name for site in space.sites]
    for position, site in enumerate(explained["sites"]):
        errors = site["relative_error"]
        assert len(errors) == len(site["widths"])
        assert errors[-1] == pytest.approx(0, abs=1e-6)
        assert np.all(np.diff(errors) <= 1e-9), "a wider site loses less"
        assert 0 < errors[0] < 1
        assert site["macs_saved"][-1] == site["params_saved"][-1] == 0
        for index in (0, len(errors) // 2):
            widths = list(dense)
            widths[position] = site["widths"][index]
            own = cost_of(model, widths)
            assert site["predicted_latency_s"][index] == own.latency_s
            assert site["predicted_latency_saved_s"][index] == whole.latency_s - own.latency_s
            assert site["macs_saved"][index] == whole.macs - own.macs
            assert site["params_saved"][index] == whole.params - own.params


def test_coupling_names_the_layers_and_the_reason(explained: dict[str, Any]) -> None:
    by_name = {site["name"]: site for site in explained["sites"]}
    stem = by_name["conv1"]
    assert stem["coupling"]["makes"] == ["conv1", "layer1.0.conv2"]
    assert "bn1" in stem["coupling"]["passes"]
    assert any("residual sum" in why for why in stem["coupling"]["why"])
    inner = by_name["layer1.0.conv1"]
    assert inner["coupling"]["makes"] == ["layer1.0.conv1"]
    assert not any("residual sum" in why for why in inner["coupling"]["why"])
    links = [(one["layer"], one["why"]) for one in inner["neighbours"] if one["site"] == "conv1"]
    assert {layer for layer, _ in links} == {"layer1.0.conv1", "layer1.0.conv2"}
    assert all("product" in why for _, why in links)
    for site in explained["sites"]:
        for one in site["neighbours"]:
            assert site["name"] in [n["site"] for n in by_name[one["site"]]["neighbours"]]


def test_the_budget_and_its_floor(explained: dict[str, Any], digits_run: Path) -> None:
    budget = explained["budget"]
    assert (budget["key"], budget["fraction"], budget["reachable"]) == ("macs", 0.5, True)
    assert budget["limit"] == 0.5 * explained["dense"]["macs"]
    assert 0 < budget["smallest_fraction"] < 0.5
    target = str(digits_run / "uniform-s0" / "target.json")
    floor = budget["smallest_fraction"]
    raw = {**SMALL, "latency": {"batch_size": 64, "target": target}, "budget": {"macs": floor / 2}}
    below = app.explain(parse_config(raw), digits_run.parent / "below")
    assert below["budget"]["reachable"] is False
    assert below["budget"]["smallest_fraction"] == floor


def test_the_bar_counts_the_calibration_images(
    explained: dict[str, Any], reporter: Watching
) -> None:
    assert explained["calibration_images"] == 200
    assert reporter.totals["gathering moments"] == reporter.done == 200


def test_nothing_is_searched_and_the_run_folder_stays_free(
    explained: dict[str, Any], folder: Path
) -> None:
    assert [path.name for path in folder.iterdir()] == ["run-explain.png"]
    assert explained["picture"] == str(folder / "run-explain.png")
    assert {rgb(BLUE), rgb(ORANGE)} <= colours(folder / "run-explain.png")


def blue(path: Path) -> int:
    """Return how many pixels of a picture have the colour of errors, which its legend has too."""
    pixels = (imread(path)[..., :3] * 255).round().astype(int)
    return int((pixels == rgb(BLUE)).all(axis=-1).sum())


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_picture_of_any_number_of_sites(
    explained: dict[str, Any], tmp_path: Path, count: int
) -> None:
    sites = [{**site, "name": "$x^{"} for site in explained["sites"][:count]]  # no formula
    error_and_latency(tmp_path / "errors.png", sites, "digits")
    sites = [{**site, "relative_error": None} for site in sites]
    error_and_latency(tmp_path / "none.png", sites, "digits")
    assert rgb(ORANGE) in colours(tmp_path / "none.png")
    assert (blue(tmp_path / "errors.png") > blue(tmp_path / "none.png")) == (count > 0)


def test_the_terminal_shows_coupling_curves_and_budget(
    explained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    noted = {**explained, "notes": ["a note"]}
    noted["budget"] = {**explained["budget"], "key": "predicted_latency", "reachable": False}
    show_explanation(noted)
    shown = capsys.readouterr().out
    for text in (
        "made by conv1, layer1.0.conv2",
        "residual sum",
        "after least squares on 200 calibration images",
        "not compressed: fc: ",
        "note: a note",
        "OUT OF REACH",
        "run-explain.png",
    ):
        assert text in shown.replace("\n", " ").replace("  ", " ")
    assert max(map(len, shown.splitlines()[:-1])) <= 120
    stem = explained["sites"][0]
    row = next(line for line in shown.splitlines() if line.split()[1:2] == ["4"])
    assert row.split()[3] == f"{100 * stem['relative_error'][0]:.2f}"


def test_the_option_leads_to_it(digits_run: Path, tmp_path: Path) -> None:
    target = digits_run / "uniform-s0" / "target.json"
    arguments = ["--set", f"latency.target={target}", "--set", "latency.batch_size=64"]
    more = ["--set", "calibration_images=50", "--run-dir", str(tmp_path / "x"), "--json"]
    result = CliRunner().invoke(application, ["search", "digits", "--explain", *arguments, *more])
    assert result.exit_code == 0, result.output
    jsonschema.validate(json.loads(result.stdout), EXPLANATION)
    assert [path.name for path in tmp_path.iterdir()] == ["x-explain.png"]
