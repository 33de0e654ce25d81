"""Bad input is refused before anything slow starts, names its field, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from amc import app, planned, run_folder
from amc.cli import application
from amc.config import parse_config
from amc.criteria import CRITERIA
from amc.errors import InputError
from amc.journal import Journal
from amc.latency import LatencyTable
from amc.plan_file import read_plan
from amc.recipe import Recipe, read_recipe, train
from amc.registry import lookup
from amc.run_folder import RunFolder, write_config
from amc.strict_yaml import read_yaml
from amc.task import load_task
from amc.zoo.data import Splits, load
from tests.conftest import SMALL

TASKS = """
import torch
from torch import nn
from amc.data import Data
from amc.task import Task
x, y = torch.randn(60, 1, 8, 8), torch.randint(0, 3, (60,))
every = Data(x, y)
def net(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
def made(network=None, inputs=x[:1], train=every[:30], search=every[30:], test=None, score=None):
    return Task(network or net(), inputs, train, search, test, score)
def good(): return made(test=every[:9], score=lambda o, l: 0.5)
def unlabelled(): return made(train=Data(x[:30]), search=Data(x[30:]))
def fails(): raise ValueError("my file is missing")
def no_task(): return 3
def needs(argument): pass
def no_network(): return made(network="resnet")
def example(): return made(inputs=torch.randn(1, 3, 8, 8))
def no_example(): return made(inputs=(1, 2))
def data(): return made(train=Data(torch.randn(30, 3, 8, 8), y[:30]))
def no_data(): return made(search=x)
def arrays(): return made(search=Data((x.numpy(),), y))
def nan_data(): return made(search=Data(x * float("nan"), y))
def tensor_score(): return made(score=lambda o, l: o.mean())
def failing_score(): return made(score=lambda o, l: o[:, 9])
def nan_score(): return made(test=every[:9], score=lambda o, l: float("nan"))
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x): return self.net(x), x
def two(): return made(network=Two())
number = 5
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bad_tasks.py").write_text(TASKS)
    (tmp_path / "bad_syntax.py").write_text("def f(:\n")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def content(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in str(p)}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (":f", "':f' must read package.module:factory"),
        (".bad_tasks:good", "must read package.module:factory"),
        ("bad_tasks:", "must read package.module:factory"),
        ("bad_syntax:f", "'bad_syntax' cannot be imported: SyntaxError"),
        ("bad_tasks:goood", "bad_tasks.py.* has no 'goood'; did you mean 'good'"),
        ("bad_tasks:number", "bad_tasks.py.* is of type int, not a function"),
        ("bad_tasks:fails", "failed at .*bad_tasks.py:13: ValueError: my file is missing"),
        ("bad_tasks:needs", "the factory failed at .*TypeError"),
        ("bad_tasks:no_task", "must return amc.task.Task, but returned int"),
        ("bad_tasks:no_network", "task.network must be a torch.nn.Module"),
        ("bad_tasks:example", "not run on task.example_inputs .*1, 3, 8, 8.*: RuntimeError"),
        ("bad_tasks:no_example", "task.example_inputs must be a tensor"),
        ("bad_tasks:data", "not run on task.train "),
        ("bad_tasks:no_data", "task.search and task.test must be amc.data.Data"),
        ("bad_tasks:arrays", "must hold tensors"),
        ("bad_tasks:nan_data", "task.search has NaN or infinite inputs"),
        ("bad_tasks:tensor_score", "task.score must return a finite float, .* a Tensor"),
        ("bad_tasks:failing_score", "task.score fails on .* task.train: IndexError"),
        ("bad_tasks:nan_score", "task.score must return a finite float, .* gave nan"),
        ("bad_tasks:two", "task.network must return one tensor, but returned tuple"),
    ],
)
def test_a_task_that_does_not_fit_together(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_task(name)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("here")
def test_a_task_that_fits_is_loaded() -> None:
    assert load_task("bad_tasks:good").test is not None
    assert load_task("bad_tasks:unlabelled").score_name == "agreement"


def too_late(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("work began before the place for its result was checked")


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "digits", "--run-dir", "file/x"],
        ["search", "digits", "--run-dir", "/proc/no/x"],
        ["measure", "digits", "--out", "folder"],
        ["measure", "digits", "--out", "file/t.json"],
        ["train", "r.yaml", "--out", "folder"],
        ["train", "r.yaml", "--out", "file/n.safetensors"],
    ],
)
def test_where_the_result_goes_is_checked_first(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (here / "r.yaml").write_text("network: resnet8\ndata: pack\n")
    monkeypatch.setattr(app, "prepare", too_late)
    monkeypatch.setattr(app, "load_task", too_late)
    monkeypatch.setattr("amc.recipe.load", too_late)
    before = content(here)
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {arguments[2]} '{arguments[3]}' ")
    assert content(here) == before


@pytest.mark.parametrize("command", ["export", "apply"])
@pytest.mark.parametrize("out", ["folder", "file/x"])
def test_nothing_of_a_plan_is_left_behind(
    here: Path, digits_run: Path, command: str, out: str
) -> None:
    suffix = ".safetensors" if command == "apply" else ""
    (here / "folder.safetensors").mkdir()
    source = digits_run / "netadapt-s0/plan.json" if command == "apply" else digits_run
    before = content(here)
    result = CliRunner().invoke(application, [command, str(source), "--out", out + suffix])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: --out '{out}{suffix}' ")
    assert content(here) == before


@pytest.mark.parametrize("summary", ["[]", '[{"agent": "ddpg"}]', "[3]", "{}", "[" * 100_000])
@pytest.mark.parametrize("command", ["compare", "export"])
def test_a_summary_without_results(here: Path, command: str, summary: str) -> None:
    write_config(here / "run/config.yaml", parse_config(SMALL))
    (here / "run/summary.json").write_text(summary)
    more = ["--out", "x.json"] if command == "export" else []
    result = CliRunner().invoke(application, [command, "run", *more])
    assert result.exit_code == 2, result.output
    assert "summary.json" in result.stderr


def test_a_run_grows_only_to_what_is_legal_and_only_when_it_can_go_on(digits_run: Path) -> None:
    file = digits_run / "config.yaml"
    before = file.read_bytes()
    for arguments in (["--evaluations", "2000000"], ["--workers", "-1"]):
        result = CliRunner().invoke(application, ["resume", str(digits_run), *arguments])
        assert result.exit_code == 2, result.output
        assert f"{arguments[0][2:]} {arguments[1]}: input should be" in result.stderr
    journal = digits_run / "ddpg-s0" / "journal.jsonl"
    kept = journal.read_bytes()
    journal.write_bytes(b"{}\n")
    try:
        with pytest.raises(InputError, match="header: schema_version is None"):
            app.resume(digits_run, evaluations=100)
    finally:
        journal.write_bytes(kept)
    assert file.read_bytes() == before


def test_a_run_takes_over_where_and_how_it_runs() -> None:
    config = parse_config({**SMALL, "horizon": 8, "latency": {"target": "a.json"}})
    folder = RunFolder(Path("run"), config)
    new = {"workers": 2, "tracking_uri": None, "experiment": "other", "data_folder": "/data"}
    again = folder.again(parse_config({**SMALL, **new, "horizon": 8, "latency": {}}))
    assert again.config == config.model_copy(update=new)
    with pytest.raises(InputError, match="another configuration"):
        folder.again(parse_config({**SMALL, "horizon": 8, "walks": 2}))


def test_an_interrupted_beginning_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_folder.RunFolder.create(tmp_path / "run", parse_config(SMALL), defaultdict(dict), {})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def plan(digits_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits_run / "uniform-s0", tmp_path / "plan")
    return tmp_path / "plan/plan.json"


def changed_site(plan: Path, **change: Any) -> None:
    value = json.loads(plan.read_text())
    value["choices"]["conv1"].update(change)
    plan.write_text(json.dumps(value))


ZEROS = {"kept": None, "keep_ratio": 1, "pattern": "2:4", "sparsity": 0.5, "kernel": "nm"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "csc"}, "choices.conv1 .* kernel 'csc' does not run pattern 'dense'"),
        ({"kernel": "fast"}, "choices.conv1.kernel 'fast': input should be 'dense', 'nm'"),
        ({"sparsity": 0.5}, "sparsity 0.5 contradicts pattern 'dense'"),
        ({"pattern": "2:4", "sparsity": 0.5}, "must be dense where channels are kept"),
        ({"kept": None}, "keep_ratio must be 1 where kept is null"),
        ({**ZEROS, "sparsity": 0.6}, "sparsity of pattern '2:4' must be 0.5"),
        ({**ZEROS, "kernel": "csr"}, "kernel 'csr' does not run pattern '2:4'"),
        (ZEROS, "choices.conv1 is no layer of task 'digits' that can be sparse"),
        ({"keep_ratio": 0.01}, "choices.conv1.keep_ratio 0.01 contradicts kept, which lists"),
    ],
)
def test_a_plan_promises_nothing_that_is_not_built(
    plan: Path, change: dict[str, Any], message: str
) -> None:
    changed_site(plan, **change)
    with pytest.raises(InputError, match=message):
        app.apply(plan, plan.parent / "n.safetensors")


def test_evaluation_says_against_which_table_it_measures(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of() -> tuple[LatencyTable | None, str | None]:
        return planned._table_of(read_plan(plan), plan.parent)

    own, note = of()
    assert own is not None
    assert note is None
    target = plan.parent / "target.json"
    target.write_text(json.dumps({**own.as_json(), "reference_s": 2 * own.reference_s}))
    table, note = of()
    assert table is not None
    assert table.reference_s == own.reference_s
    assert "not the table that the plan was priced with; measured against" in str(note)
    target.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(plan.parent / "empty"))
    table, note = of()
    assert table is None
    assert "latency not measured: the plan's table is not beside it" in str(note)


def test_a_recipe_that_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = tmp_path / "r.yaml", tmp_path / "n.safetensors"
    file.write_text("network: resnet8\nlearning_rate: .inf\n")
    with pytest.raises(InputError, match="learning_rate inf"):
        read_recipe(file)
    pack = load("pack")
    small = Splits(pack.train[:32], pack.search[:32], pack.test[:32])
    monkeypatch.setattr("amc.recipe.load", lambda *_: small)
    with pytest.raises(InputError, match="batch_size 64 is above the 32 training images"):
        train(Recipe(network="resnet8", batch_size=64), out)
    with pytest.raises(InputError, match="learning_rate 1e\\+30 made the weights infinite or NaN"):
        train(Recipe(network="resnet8", batch_size=16, epochs=2, learning_rate=1e30), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("task: digit", "task 'digit' is unknown; did you mean 'digits'? Known"),
        ("space: channels", "space 'channels' is unknown; did you mean 'channel'? Known"),
        ("sites: {criterion: l3}", "sites.criterion 'l3' is unknown"),
        ("agents: {ddpg: {sigma: 1}}", "agents.ddpg.sigma is not a known option"),
        ("agents: {ddpg: {evaluations: 0}}", "agents.ddpg.evaluations must be a whole number"),
    ],
)
def test_validation_knows_every_name(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    write_config(file, parse_config(SMALL))
    assert app.validate(file)["valid"] is True
    key, _, _ = line.partition(":")
    kept = {k: v for k, v in read_yaml(file, "config").items() if k != key}
    file.write_text(json.dumps(kept)[:-1] + f", {line}}}")
    with pytest.raises(InputError) as caught:
        app.validate(file)
    assert message in str(caught.value)


def test_an_unknown_name_without_a_near_one_is_a_sentence() -> None:
    with pytest.raises(InputError, match="'foo' is unknown; choose one of magnitude_l1, "):
        lookup(CRITERIA, "foo", "criterion")
