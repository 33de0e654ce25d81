"""No code from data: hostile files in every place that a command reads, and no canary fires."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amc import app, planned
from amc.cli import application
from amc.errors import InputError
from amc.journal_lines import as_line
from amc.run_folder import RunFolder
from tests.fuzzed import REPORT, as_json
from tests.hostile.corpus import Canary, corpus

# Of places whose commands load a network first, which takes longer, a few files are enough.
FEW = ("torch.zip", "torch.legacy", "pickle", "yaml.apply", "safetensors.overlap", "depth")


@dataclass(frozen=True)
class Place:
    """A file of a run folder that is replaced, and the command that then reads it."""

    file: str
    command: tuple[str, ...]
    loads_network: bool = False


PLACES = {
    "validate a plan": Place("case.json", ("validate", "case.json")),
    "validate a configuration": Place("case.yaml", ("validate", "case.yaml")),
    "search": Place("case.yaml", ("search", "case.yaml", "--run-dir", "new")),
    "inspect": Place("case.yaml", ("inspect", "case.yaml")),
    "train": Place("case.yaml", ("train", "case.yaml", "--out", "x.safetensors")),
    "apply": Place("case.json", ("apply", "case.json", "--out", "x.safetensors")),
    "evaluate": Place("case.json", ("evaluate", "case.json")),
    "finetune": Place("case.json", ("finetune", "case.json")),
    "finetune by a recipe": Place(
        "case.yaml", ("finetune", "run/uniform-s0/plan.json", "--recipe", "case.yaml")
    ),
    "go on with a fine-tuning": Place(
        "run/uniform-s0/plan-finetuned/checkpoint.safetensors",
        ("finetune", "run/uniform-s0/plan.json", "--resume"),
    ),
    "an ended fine-tuning": Place(
        "run/uniform-s0/plan-finetuned/report.json",
        ("finetune", "run/uniform-s0/plan.json", "--resume"),
    ),
    "front": Place("run/ddpg-s0/plan-finetuned/report.json", ("front", "run")),
    "compare": Place("run/summary.json", ("compare", "run")),
    "compare journals": Place(
        "run/uniform-s0/journal.jsonl", ("compare", "run", "--html", "page.html")
    ),
    "compare plans": Place("run/uniform-s0/plan.json", ("compare", "run", "--html", "page.html")),
    "compare in pairs": Place(
        "run/ddpg-s0/plan-finetuned/test_correct.safetensors",
        ("compare", "run", "--paired", "uniform"),
    ),
    "export": Place("run/summary.json", ("export", "run", "--out", "out.json")),
    "export a plan": Place(
        "run/uniform-s0/plan.json",
        ("export", "run", "--agent", "uniform", "--out", "out.json"),
    ),
    "export weights": Place(
        "run/netadapt-s0/weights.safetensors",
        ("export", "run", "--agent", "netadapt", "--out", "out.json"),
    ),
    "resume": Place("run/config.yaml", ("resume", "run")),
    "resume with a table": Place("run/ddpg-s0/target.json", ("resume", "run"), True),
    "evaluate weights": Place(
        "run/netadapt-s0/weights.safetensors", ("evaluate", "run/netadapt-s0/plan.json"), True
    ),
    "apply weights": Place(
        "run/netadapt-s0/weights.safetensors",
        ("apply", "run/netadapt-s0/plan.json", "--out", "x.onnx"),
        True,
    ),
    "import .pt": Place("case.pt", ("import", "case.pt", "digits", "--out", "out.json"), True),
    "import .pth": Place("case.pth", ("import", "case.pth", "digits", "--out", "out.json"), True),
    "import .safetensors": Place(
        "case.safetensors",
        ("import", "case.safetensors", "digits", "--out", "out.json"),
        True,
    ),
}


def prepared(digits_run: Path, folder: Path) -> None:
    """Copy the run into ``folder``, with fine-tunings of which one file each will be replaced."""
    shutil.copytree(digits_run, folder / "run")
    for name in ("ddpg-s0", "uniform-s0", "netadapt-s0", "random_search-s0"):
        tuned = folder / "run" / name / "plan-finetuned"
        tuned.mkdir(exist_ok=True)
        shutil.copy(folder / "run" / name / "plan.json", tuned / "plan.json")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    # Whoever goes on with a run owns it first.
    files = (p for p in folder.rglob("*") if "__pycache__" not in str(p) and p.name != ".lock")
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


@pytest.fixture(scope="module")
def shared(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the run, in which every test puts back what it replaced."""
    here = tmp_path_factory.mktemp("hostile")
    prepared(digits_run, here)
    return here


def try_place(name: str, here: Path, canary: Path, kinds: Sequence[str]) -> None:
    """Put each hostile file in a place, and run the command that reads it."""
    place, hostile = PLACES[name], corpus(canary)
    file = here / place.file
    original = file.read_bytes() if file.exists() else None
    reports = [*here.glob("run/*/plan-finetuned")] if "correct" in place.file else []
    try:
        for folder in reports:
            (folder / "report.json").write_bytes(as_json(REPORT))
        for kind in kinds:
            file.write_bytes(hostile[kind])
            before = listing(here)
            result = CliRunner().invoke(application, list(place.command))
            told = f"{name}, {kind}: {result.output}"
            assert result.exit_code == 2, told
            assert result.stderr.startswith("error: "), told
            named = file.name in result.stderr.replace("\n", "")
            assert named or "py/reduce is not a known key" in result.stderr, told
            assert "Traceback" not in result.output, told
            assert not canary.exists(), told
            assert listing(here) == before, told
    finally:
        file.unlink()
        for folder in reports:
            (folder / "report.json").unlink()
        if original is not None:
            file.write_bytes(original)


@pytest.mark.parametrize("name", PLACES)
def test_hostile_files_are_refused_and_nothing_runs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(shared)
    every, place = list(corpus(tmp_path)), list(PLACES).index(name)
    kinds = [FEW[place % len(FEW)]] if PLACES[name].loads_network else every[place % 4 :: 4]
    try_place(name, shared, tmp_path / "canary", kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_every_hostile_file_in_every_place(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(shared)
    try_place(name, shared, tmp_path / "canary", list(corpus(tmp_path)))


def test_the_corpus_would_fire_if_it_were_believed(tmp_path: Path) -> None:
    pickle.loads(corpus(tmp_path / "canary")["pickle"])  # noqa: S301
    assert (tmp_path / "canary").is_dir()
    assert Canary(tmp_path).__reduce__()[0] is os.mkdir


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of a stranger in the working folder; the path that its import makes."""
    canary = tmp_path / "imported"
    (tmp_path / "stranger.py").write_text(
        f"import os\nos.mkdir({str(canary)!r})\ndef factory(): os.mkdir({str(canary)!r} + '2')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield canary
    sys.modules.pop("stranger", None)


def renamed(run: Path, task: str) -> None:
    """Let a run, and every plan in it, name another task."""
    for path in [*run.rglob("*.json"), *run.rglob("*.yaml"), *run.rglob("*.jsonl")]:
        text = path.read_text()
        for before in ('"task": "digits"', '"task":"digits"', "task: digits"):
            text = text.replace(before, before.replace("digits", task))
        if path.name == "journal.jsonl":  # a stranger has its checksums right
            text = "".join(as_line(json.loads(line)) for line in text.splitlines())
        path.write_text(text)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("validate", "run/config.yaml"), 0),
        (("validate", "run/uniform-s0/plan.json"), 0),
        (("compare", "run", "--html", "page.html"), 0),
        (("export", "run", "--out", "out.json"), 0),
        (("evaluate", "run/uniform-s0/plan.json"), 2),
        (("apply", "run/uniform-s0/plan.json", "--out", "x.onnx"), 2),
        (("finetune", "run/uniform-s0/plan.json"), 2),
        (("finetune", "run"), 2),
        (("front", "run"), 2),
    ],
)
def test_what_only_reads_never_imports_what_a_run_names(
    digits_run: Path, tmp_path: Path, module: Path, command: tuple[str, ...], code: int
) -> None:
    prepared(digits_run, tmp_path)
    for tuned in tmp_path.glob("run/*/plan-finetuned"):
        shutil.rmtree(tuned)
    renamed(tmp_path / "run", "stranger:factory")
    result = CliRunner().invoke(application, list(command))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert not module.exists(), "a stranger's module was imported"
    assert "stranger" not in sys.modules


def test_code_that_a_plan_names_runs_only_where_it_is_named_again(
    digits_run: Path, tmp_path: Path, module: Path
) -> None:
    prepared(digits_run, tmp_path)
    renamed(tmp_path / "run", "stranger:factory")
    plan = tmp_path / "run/uniform-s0/plan.json"
    with pytest.raises(InputError, match="not run on a file's word; .* --task stranger:factory"):
        planned.evaluate(plan, None, None)
    assert not module.exists()
    with pytest.raises(InputError, match="must return amc.task.Task"):
        planned.evaluate(plan, "stranger:factory", None)
    assert module.exists()


def test_the_page_of_a_comparison_runs_no_script_of_a_run(digits_run: Path, tmp_path: Path) -> None:
    prepared(digits_run, tmp_path)
    rows: list[dict[str, Any]] = RunFolder.open(tmp_path / "run").read_summary()
    evil = "<script>alert(1)</script>"
    for row in rows:
        row.update(backend=evil, recovery=evil)
    (tmp_path / "run/summary.json").write_bytes(as_json(rows))
    app.compare([tmp_path / "run"], html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert evil not in page
    assert "&lt;script&gt;" in page
