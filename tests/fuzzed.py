"""The kinds of files that are fuzzed: real contents, and how amc reads each."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from amc import app
from amc.arena import bouts_of, read_experiment
from amc.arena_record import read_arena
from amc.arena_scores import curves_by_evaluations, curves_by_seconds, equal_time, fronts
from amc.cli.tables import results_table
from amc.config import changed, parse_config
from amc.delivery import STATE, Delivered
from amc.finetune_report import read_report
from amc.finetune_settings import read_recipe as finetune_recipe
from amc.journal import read_journal
from amc.journal_lines import as_line
from amc.latency import LatencyTable
from amc.outbox_lines import FILE, read_entries
from amc.plan_file import read_plan
from amc.recipe import read_recipe
from amc.run_folder import RunFolder
from tests.conftest import SMALL
from tests.outboxes import record
from tests.test_arena_report import arena_of

ROOT = Path(__file__).resolve().parent.parent
JOURNAL = "case.jsonl"


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in a folder, real contents, how it is read, and what is done then.

    ``text`` makes a mutated value a file again. ``names`` are words one of which an error has.
    """

    file: str
    contents: list[bytes]
    parse: Callable[[bytes], Any]
    text: Callable[[Any], bytes]
    read: Callable[[Path], object]


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value).encode()
    except (yaml.YAMLError, UnicodeEncodeError):
        return as_json(value)


def lines_of(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def as_lines(values: Any) -> bytes:
    """Return a journal with right checksums, so that what is checked beyond them is tried too."""
    if not isinstance(values, list):
        return as_json(values)
    return b"".join(map(_as_line, values))


def _as_line(value: Any) -> bytes:
    if isinstance(value, dict) and isinstance(value.get("observed"), dict):
        with contextlib.suppress(ValueError):
            return as_line(value).encode()
    return as_json(value) + b"\n"


def read_plan_whole(path: Path) -> object:
    plan = read_plan(path)
    return plan.text(), plan.plan.digest


def read_table(path: Path) -> object:
    table = LatencyTable.load(path)
    for times in table.kernels.values():
        times.nearest([1] * len(times.axes))
    return table.digest, table.is_noisy


def read_bouts(path: Path) -> object:
    return bouts_of(read_experiment(path), "x", Path("runs"))


def read_arena_whole(path: Path) -> object:
    arena = read_arena(path)
    for task in arena.tasks:
        curves_by_evaluations(arena, task)
        curves_by_seconds(arena, task)
    return equal_time(arena), fronts(arena)


def read_config(path: Path) -> object:
    return app.validate(path)


def read_summary(path: Path) -> object:
    folder = RunFolder.open(path.parent)
    return results_table([{**row, "run_dir": "x"} for row in folder.read_summary()])


def read_override(path: Path) -> object:
    value = path.read_bytes().decode(errors="surrogateescape")
    return changed(copy.deepcopy(SMALL), value.splitlines()[:4])


def read_outbox(path: Path) -> object:
    return list(read_entries(path.parent))


def read_delivery(path: Path) -> object:
    return Delivered.read(path.parent)


def overrides_of(content: bytes) -> Any:
    """Return the values of ``--set``, as ``read_override`` has them."""
    return content.decode(errors="surrogateescape").splitlines()[:4]


def as_overrides(lines: Any) -> bytes:
    text = "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines)
    return text.encode(errors="surrogatepass")


def yaml_of(content: bytes) -> Any:
    return yaml.load(content, Loader=yaml.CSafeLoader)  # of our own files


def tracked(folder: Path) -> tuple[bytes, bytes]:
    """Return an outbox and the record of its delivery, made in ``folder``."""
    if not (folder / FILE).is_file():
        record(folder, 6)
    state = Delivered("http://127.0.0.1:1", 3, 500, "0" * 16, "ConnectionError: away")
    state.write(folder)
    return (folder / FILE).read_bytes(), (folder / STATE).read_bytes()


def kinds(run: Path) -> dict[str, Kind]:
    experiments = sorted((ROOT / "experiments").glob("*.yaml"))
    arenas = [p for p in experiments if p.name.startswith("arena_")]
    searches = [p for p in experiments if b"budget:" in p.read_bytes() and p not in arenas]
    trainings = [p for p in experiments if p.name.startswith("train-")]
    tunings = [p for p in experiments if p.name.startswith("finetune_")]
    full = as_yaml(parse_config(SMALL).model_dump(mode="json"))
    overrides = b"sites.round_to=8\nagents.ddpg.sigma0=0.5\nbudget.params=0.4\nseeds=[1, 2]"

    def contents(pattern: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(run.glob(pattern))]

    def of_yaml(paths: list[Path], read: Callable[[Path], object], *more: bytes) -> Kind:
        texts = [*(path.read_bytes() for path in paths), *more]
        return Kind("case.yaml", texts, yaml_of, as_yaml, read)

    outbox, delivery = tracked(run.parent / "tracked" / "ddpg-s0")
    plans = [*contents("*-s0/plan.json"), *contents("*/family/00.json")]
    tables = contents("uniform-s0/target.json")
    return {
        "configuration": of_yaml(searches, read_config, full),
        "training": of_yaml(trainings, read_recipe),
        "fine-tuning": of_yaml(tunings, finetune_recipe),
        "experiment": of_yaml(arenas, read_bouts),
        "arena": Kind("case.json", [as_json(arena_of())], json.loads, as_json, read_arena_whole),
        "override": Kind("case", [overrides], overrides_of, as_overrides, read_override),
        "plan": Kind("case.json", plans, json.loads, as_json, read_plan_whole),
        "table": Kind("case.json", tables, json.loads, as_json, read_table),
        "journal": Kind(
            JOURNAL,
            contents("*-s0/journal.jsonl"),
            lines_of,
            as_lines,
            read_journal,
        ),
        "summary": Kind(
            "summary.json", contents("summary.json"), json.loads, as_json, read_summary
        ),
        "report": Kind("case.json", [as_json(REPORT)], json.loads, as_json, read_report),
        "outbox": Kind(FILE, [outbox], lines_of, as_lines, read_outbox),
        "delivery": Kind(STATE, [delivery], json.loads, as_json, read_delivery),
    }


REPORT = {
    "task": "digits",
    "metric": "accuracy",
    "accuracies": [
        {"weights": name, "search_accuracy": 0.5, "test_accuracy": 0.5}
        for name in ("dense", "finetuned")
    ],
    **{"train_images": 5, "search_images": 5, "test_images": 5},
    "stages": [{"level": 1.0, "steps": 1, "planned_steps": 1, "kept_step": 1}],
    "notes": ["a note"],
    "identity": {"plan": "0" * 64, "data": "0" * 64, "settings": {"steps": 3}},
    "observed": {"train_s": 0.5},
}
