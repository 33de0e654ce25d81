"""The command line: arguments in, tables or one JSON document out, and exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner, Result

import amc
from amc.cli import COMMANDS, application
from amc.cli.bench import OPTIONS
from amc.cli.tables import fact
from amc.errors import InputError
from amc.invalid import explain
from amc.result_text import count, milliseconds, percent, speed_up

ROOT = Path(__file__).resolve().parent.parent
DENSE = {
    "search_accuracy": 0.912,
    "test_accuracy": 0.9,
    "macs": 8_420_000,
    "params": 272_474,
    "predicted_latency_s": 0.013,
    "measured_latency_s": 0.0132,
}
ROW = {
    "agent": "random_search",
    "seed": 0,
    "evaluations": 60,
    "recovery": "batch_norm",
    "search_accuracy": 0.8853,
    "test_accuracy": 0.881,
    "finetuned_test_accuracy": 0.895,
    "finetune_steps": 120,
    "test_images": 2000,
    "macs": 4_100_000,
    "params": 131_234,
    "predicted_latency_s": 0.0065,
    "measured_latency_s": 0.0066,
    "backend": "torch-2.13.0/oneDNN",
    "plan": "runs/q/random_search-s0/plan.json",
    "dense": DENSE,
}
RESULT = {"run_dir": "runs/q", "rows": [ROW], "next": ["amc ui --run-dir runs/q"]}


class FakeApp(SimpleNamespace):
    """Stands for ``amc.app``: remembers calls, answers each with ``answer``."""

    def __init__(self, answer: Any) -> None:
        super().__init__(calls=[], answer=answer)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            if name == "load_config":
                return "the config"
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer(*args) if callable(self.answer) else self.answer

        return call


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, FakeApp]]:
    def run(answer: Any, *arguments: str) -> tuple[Result, FakeApp]:
        app = FakeApp(answer)
        for name in ("app", "app_bench"):
            monkeypatch.setattr(amc, name, app, raising=False)
            monkeypatch.setitem(sys.modules, f"amc.{name}", app)
        return CliRunner().invoke(application, list(arguments)), app

    return run


Run = Callable[..., tuple[Result, FakeApp]]


def test_search_hands_everything_on(run: Run) -> None:
    arguments = ["--task", "resnet8", "--set", "walks=2", "--set", "budget.macs=0.5"]
    more = ["--agents", "ddpg, uniform", "--seed", "3", "--workers", "0", "--run-dir", "runs/q"]
    result, app = run(RESULT, "search", "q.yaml", *arguments, *more)
    assert result.exit_code == 0, result.output
    assert app.calls[0] == (
        "load_config",
        ("q.yaml", ["walks=2", "budget.macs=0.5"]),
        {"task": "resnet8", "agents": ["ddpg", "uniform"], "seed": 3, "workers": 0},
    )
    assert app.calls[1][0] == "search"
    assert app.calls[1][1][:2] == ("the config", Path("runs/q"))


def test_search_explains_in_place_of_searching(run: Run) -> None:
    result, app = run({"sites": []}, "search", "q.yaml", "--explain", "--run-dir", "r", "--json")
    assert result.exit_code == 0, result.output
    assert [name for name, *_ in app.calls] == ["load_config", "explain"]
    assert app.calls[1][1][:2] == ("the config", Path("r"))


CALLS = {
    "inspect": (["resnet8"], ("the config",)),
    "resume": (["runs/q", "--evaluations", "90"], (Path("runs/q"), 90)),
    "compare": (["runs/q", "runs/r"], ([Path("runs/q"), Path("runs/r")], None)),
    "export": (["runs/q", "--out", "p.json"], (Path("runs/q"), None, None, Path("p.json"))),
    "validate": (["p.json"], (Path("p.json"),)),
    "apply": (
        ["p.json", "--out", "n.onnx", "--from-original"],
        (Path("p.json"), Path("n.onnx"), True, None, False, None),
    ),
    "evaluate": (["p.json", "--task", "m:f"], (Path("p.json"), "m:f", None)),
    "finetune": (
        ["p.json", "--out", "d", "--steps", "9", "--no-augment"],
        (Path("p.json"), Path("d"), {"steps": 9, "augment": False}),
    ),
    "measure": (["--out", "t.json"], ("the config", Path("t.json"))),
    "train": (["r.yaml"], (Path("r.yaml"), None)),
    "bench": (
        ["workers", "--workers", "3", "--rounds", "2", "--evaluations", "9", "--out", "w"],
        ([{"answer": [1, 2]}] * 2, 3, 9, 16, 2, 0),
    ),
}


def test_bench_kernels_hands_everything_on(run: Run) -> None:
    arguments = ["--rounds", "9", "--batch-size", "8", "--threads", "1, 2,2", "--set", "zoo"]
    result, app = run([], "bench", "kernels", *arguments, "--quick", "--out", "k", "--json")
    assert result.exit_code == 0, result.output
    name, passed, _ = app.calls[-1]
    assert name == "bench_kernels"
    assert passed[:5] == (9, 8, [1, 2], ["zoo"], True)
    assert passed[6] == Path("k")
    result, app = run([], "bench", "kernels", "--json")
    assert app.calls[-1][1][:5] == (None, 1, [1], ["table", "zoo"], False)
    result, _ = run([], "bench", "kernels", "--threads", "1,two")
    assert result.exit_code == 2
    assert "--threads must be numbers such as 1 or 1,2, but got '1,two'" in result.stderr


def test_bench_takes_a_network_or_a_configuration(run: Run) -> None:
    result, app = run([], "bench", "evaluation", "p.yaml", "--task", "m:f", "--json")
    assert result.exit_code == 0, result.output
    assert app.calls[0] == ("load_config", ("p.yaml",), {"task": "m:f"})
    assert app.calls[1][1][:5] == (["the config"], 200, 4, 5, 0)
    result, app = run([], "bench", "workers", "resnet20", "--seed", "3", "--json")
    assert app.calls[0][:2] == ("evaluation_config", ("resnet20",))
    assert app.calls[1][1][:6] == ([[]], 2, None, 16, 5, 3)
    result, app = run([], "bench", "latency", "resnet8", "--task", "m:f")
    assert result.exit_code == 2
    assert "'resnet8' and --task 'm:f' both name a network; leave one out" in result.stderr


GIVEN = {
    "network": ["resnet20"],
    "task": ["--task", "resnet20"],
    "table": ["--table", "t.json"],
    "workers": ["--workers", "2"],
    "plans": ["--plans", "3"],
    "seed": ["--seed", "0"],
    "evaluations": ["--evaluations", "9"],
    "batch_size": ["--batch-size", "8"],
    "rounds": ["--rounds", "3"],
    "threads": ["--threads", "1"],
    "set": ["--set", "zoo"],
    "quick": ["--quick"],
    "out": ["--out", "d"],
}


@pytest.mark.parametrize("subject", OPTIONS)
def test_options_that_a_benchmark_has_no_use_for_are_refused(run: Run, subject: str) -> None:
    for option, arguments in GIVEN.items():
        result, app = run([], "bench", subject, *arguments, "--json")
        if option in OPTIONS[subject]:
            assert result.exit_code == 0, result.output
            assert app.calls[-1][0] == f"bench_{subject}"
        else:
            assert result.exit_code == 2
            said = " ".join(result.stderr.split())
            assert f"not of bench {subject}; leave it out" in said
            assert arguments[-1] in said
            assert app.calls == []


@pytest.mark.parametrize("command", CALLS)
def test_each_command_calls_its_namesake_and_prints_json(run: Run, command: str) -> None:
    arguments, expected = CALLS[command]
    result, app = run({"answer": [1, 2]}, command, *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"answer": [1, 2]}
    name, passed, _ = app.calls[-1]
    assert name == {"evaluate": "evaluate_plan", "bench": "bench_workers"}.get(command, command)
    assert passed[: len(expected)] == expected


def test_every_command_has_json_and_help() -> None:
    for command in COMMANDS:
        result = CliRunner().invoke(application, [command.__name__, "--help"])
        assert result.exit_code == 0
        assert "--json" in result.output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["bench", "evaluatoin"], "did you mean 'evaluation'"),
        (["bench", "wrkers"], "did you mean 'workers'?"),
    ],
)
def test_an_unknown_subject_says_so(run: Run, arguments: list[str], word: str) -> None:
    result, app = run(RESULT, *arguments)
    assert result.exit_code == 2
    assert word in result.stderr
    assert app.calls == []


def test_results_table_is_readable_in_a_file(run: Run) -> None:
    result, _ = run(RESULT, "compare", "runs/q")
    row = next(line for line in result.stdout.splitlines() if "random_search" in line)
    shown = ["batch_norm", "60", "88.53", "88.10", "89.50", "4.1M", "131k", "6.50", "6.60", "2.00x"]
    assert [cell for cell in row.split() if cell in shown] == shown
    assert "runs/q/random_search-s0/plan.json" in result.stdout
    assert "amc ui --run-dir runs/q" in result.stdout
    assert "2,000 test images; tuned: after 120 steps" in result.stdout
    assert "Kernel backend: torch-2.13.0/oneDNN." in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_inspection_shows_sites_exclusions_and_reach(run: Run) -> None:
    site = {"name": "conv1", "kind": "conv", "channels": 16, "widths": [4, 8, 16]}
    facts = {
        "task": "resnet8",
        "backend": "torch-2.13.0/oneDNN",
        "batch_size": 128,
        "sites": [{**site, "layers": ["conv1", "layer1.0.conv2"], "macs": 28_224}],
        "excluded": {"fc": "its outputs are the network's"},
        "dense": {**DENSE, "weight_bytes": 1_089_896},
        "smallest": {"macs": 0.0712, "predicted_latency": 0.31},
    }
    result, _ = run(facts, "inspect", "resnet8")
    for text in ("layer1.0.conv2", "28.2k", "fc: its outputs", "0.071 of dense", "1.09MB"):
        assert text in result.stdout
    assert "one batch of 128; kernel backend: torch-2.13.0/oneDNN." in result.stdout


def test_bad_input_is_one_message_and_code_2(run: Run) -> None:
    result, _ = run(InputError("budget.macs 0.05 is below 0.11; raise it"), "compare", "runs/q")
    assert result.exit_code == 2
    assert result.stderr == "error: budget.macs 0.05 is below 0.11; raise it\n"
    assert result.stdout == ""


def test_a_bug_is_a_traceback_and_code_1(run: Run) -> None:
    result, _ = run(RuntimeError("broken"), "compare", "runs/q", "--json")
    assert result.exit_code == 1
    assert "RuntimeError: broken" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["serch"], ["search"], ["search", "c", "--sed", "1"]])
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_interruption_says_how_to_go_on(run: Run) -> None:
    result, _ = run(KeyboardInterrupt(), "resume", "runs/q")
    assert result.exit_code == 130
    assert "go on with: amc resume runs/q" in result.stderr

    def interrupted(config: Any, run_dir: Any, reporter: Any) -> None:
        reporter.hint("amc resume runs/digits-1")
        raise KeyboardInterrupt

    result, _ = run(interrupted, "search", "q.yaml")
    assert result.exit_code == 130
    assert "go on with: amc resume runs/digits-1" in result.stderr


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    threads: int = Field(1, ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    task: str
    latency: Inner = Inner()
    other: Inner | None = None


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({}, "task is missing; add it"),
        ({"task": "x", "tsk": 1}, "tsk is not a known key; did you mean 'task'?"),
        ({"task": "x", "zzz": 1}, "zzz is not a known key; known here: task, latency, other"),
        (
            {"task": "x", "latency": {"thread": 1}},
            "latency.thread is not a known key; did you mean 'threads'?",
        ),
        (
            {"task": "x", "other": {"thread": 1}},
            "other.thread is not a known key; did you mean 'threads'?",
        ),
        (
            {"task": "x", "latency": {"threads": 0}},
            "latency.threads 0: input should be greater than or equal to 1; raise it",
        ),
    ],
)
def test_refused_fields_are_named_with_value_and_remedy(raw: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - pydantic's own, looked at below
        Outer.model_validate(raw)
    assert explain(caught.value, Outer) == line  # type: ignore[arg-type]


def test_a_refused_model_that_nobody_expected_is_a_bug(run: Run) -> None:
    def refuse(path: Any) -> None:
        Outer.model_validate({"latency": {}})

    result, _ = run(refuse, "validate", "p.json")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_a_file_that_cannot_be_used_is_one_line_and_code_2(run: Run) -> None:
    result, _ = run(PermissionError(13, "Permission denied", "/x/p.json"), "validate", "p.json")
    assert result.exit_code == 2
    assert result.stderr == "error: '/x/p.json': permission denied; check path and permissions\n"


LOST = {
    **dict.fromkeys(ROW),
    **{"agent": "netadapt", "recovery": "none", "seed": 1, "evaluations": 24, "dense": DENSE},
    "failure": "netadapt seed 1: none of 24 evaluations met the budget macs 0.5; raise it",
}


@pytest.mark.parametrize("command", ["resume", "search"])
def test_a_search_without_a_plan_is_a_row_of_dashes_and_code_1(run: Run, command: str) -> None:
    result, _ = run({**RESULT, "rows": [LOST, ROW]}, command, "runs/q")
    assert result.exit_code == 1
    assert result.stderr == f"error: {LOST['failure']}\n"
    cells = [line.split() for line in result.stdout.splitlines()]
    assert ["netadapt", "none", "1", "24", *["-"] * 8] in cells
    assert "random_search seed 0: runs/q/random_search-s0/plan.json" in result.stdout
    document, _ = run({**RESULT, "rows": [LOST, ROW]}, command, "runs/q", "--json")
    assert document.exit_code == 1
    assert json.loads(document.stdout)["rows"] == [LOST, ROW]


def test_comparing_a_search_without_a_plan_says_why_and_is_no_failure(run: Run) -> None:
    result, _ = run({"rows": [{**LOST, "run_dir": "runs/q"}]}, "compare", "runs/q")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "none of 24 evaluations met the budget macs 0.5" in " ".join(result.stdout.split())


def test_resume_hands_its_workers_on(run: Run) -> None:
    result, app = run(RESULT, "resume", "runs/q", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert app.calls[0][1][3] == 0


def test_an_accuracy_that_is_not_reproduced_is_told(run: Run) -> None:
    result, _ = run({"reproduced": False}, "evaluate", "p.json", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"reproduced": False}
    assert "NOT REPRODUCED" in result.stderr


def test_comparison_names_the_runs_and_every_number_of_steps(run: Run) -> None:
    other = {**ROW, "run_dir": "runs/r", "finetune_steps": 40, "backend": None}
    rows = [{**ROW, "run_dir": "runs/q"}, other]
    result, _ = run({"rows": rows}, "compare", "runs/q", "runs/r")
    assert "after 40, 120 steps of fine-tuning, not the same for all" in result.stdout
    dense = [line.split()[:2] for line in result.stdout.splitlines() if "dense" in line]
    assert dense == [["q", "dense"], ["r", "dense"]]
    assert "Kernel backend: not on record | torch-2.13.0/oneDNN." in result.stdout


def test_numbers_as_text() -> None:
    assert [count(x) for x in (None, 12, 1234, 8.42e6, 3e9)] == ["-", "12", "1.23k", "8.42M", "3G"]
    assert [milliseconds(x) for x in (None, 0.0066, 0.132, 1.5)] == ["-", "6.60", "132", "1.50e+03"]
    assert percent(0.88534) == "88.53"
    assert speed_up({"measured_latency_s": None, "predicted_latency_s": 1, "dense": DENSE}) == "-"
    assert [fact(x) for x in (None, True, 0.1234567, [1, 2], [])] == [
        "-",
        "yes",
        "0.123457",
        "1, 2",
        "-",
    ]


PROGRAM = """
import os, signal, sys, types
import amc
app = types.ModuleType("amc.app")
def validate(path):
    print("chatter of a library")
    os.system("echo chatter of a child")
    if str(path) == "wait":
        print("ready", file=sys.stderr, flush=True)
        signal.pause()
    return {"valid": True}
app.validate = validate
amc.app = sys.modules["amc.app"] = app
from amc.cli import main
main()
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nothing_but_the_document_reaches_stdout() -> None:
    process = start("validate", "p.json", "--json")
    out, err = process.communicate(timeout=60)
    assert json.loads(out) == {"valid": True}
    assert "chatter of a library" in err
    assert "chatter of a child" in err
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_code_130_and_no_traceback(number: signal.Signals) -> None:
    process = start("validate", "wait", "--json")
    assert process.stderr is not None
    while "ready" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
