"""Mutated configurations, plans, journals and what else is read: accepted, or refused in words.

``AMC_FUZZ_CASES`` (10,000) is how many cases the slow test makes over all kinds of files.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from amc import app
from amc.cli.tables import results_table
from amc.config import SearchConfig, changed, parse_config
from amc.errors import InputError
from amc.finetune_report import read_report
from amc.finetune_settings import FinetuneSettings
from amc.finetune_settings import read_recipe as finetune_recipe
from amc.journal import read_journal
from amc.journal_lines import as_line
from amc.latency import LatencyTable
from amc.plan_file import read_plan
from amc.recipe import Recipe, read_recipe
from amc.run_folder import RunFolder, write_config
from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parent.parent
FAST = 40  # cases a kind
CASES = int(os.environ.get("AMC_FUZZ_CASES", "10000"))
REMEDY = re.compile(r"; \w|[Kk]nown( here)?: ")
CANARY = "canary"
JOURNAL = "case.jsonl"

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 2**31, 2**63, 10**30, 1e308, -1e308),
    *(float("nan"), float("inf"), "", " ", "x" * 3000, "\x1b[31m\x1b]0;x\x07", "a\0b", "\ud800"),
    *("../../x", "/etc/passwd", "..\\x", "%2e%2e/x", "~/x", f"$(touch {CANARY})", "$\\frac{"),
    *("{{7*7}}", "os:abort", "!!python/name:os.system", "\u202eevil", "1e999", "nan", "off"),
    *([], {}, [[]], {"": {}}, ["x"] * 2000, [0] * 3000, {"__class__": "os.system"}),
    *({str(i): i for i in range(500)}, [[[[[[[[[[[[]]]]]]]]]]]]),
]
SNIPPETS = [
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"NaN", b"-Infinity", b"1e999", b"9" * 5000),
    *(b"[" * 3000, b"{" * 300, b'{"a":' * 3000, b"&a ", b"*a", b"<<: ", b"!!python/tuple []"),
    *(b"\n---\n", b'"\\ud800"', b"\\u0000", b",", b":", b"\n", b"\r\n", b"\t", b"#", b"|\n"),
]


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


def read_config(path: Path) -> object:
    return app.validate(path)


def read_summary(path: Path) -> object:
    folder = RunFolder.open(path.parent)
    return results_table([{**row, "run_dir": "x"} for row in folder.read_summary()])


def read_override(path: Path) -> object:
    value = path.read_bytes().decode(errors="surrogateescape")
    return changed(copy.deepcopy(SMALL), value.splitlines()[:4])


def kinds(run: Path) -> dict[str, Kind]:
    experiments = sorted((ROOT / "experiments").glob("*.yaml"))
    searches = [p for p in experiments if b"budget:" in p.read_bytes()]
    trainings = [p for p in experiments if p.name.startswith("train-")]
    tunings = [p for p in experiments if p.name.startswith("finetune_")]
    full = as_yaml(parse_config(SMALL).model_dump(mode="json"))
    overrides = b"sites.round_to=8\nagents.ddpg.sigma0=0.5\nbudget.params=0.4\nseeds=[1, 2]"

    def contents(pattern: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(run.glob(pattern))]

    def of_yaml(paths: list[Path], read: Callable[[Path], object], *more: bytes) -> Kind:
        texts = [*(path.read_bytes() for path in paths), *more]
        return Kind("case.yaml", texts, yaml.safe_load, as_yaml, read)

    plans = [*contents("*-s0/plan.json"), *contents("*/family/00.json")]
    tables = contents("uniform-s0/target.json")
    return {
        "configuration": of_yaml(searches, read_config, full),
        "training": of_yaml(trainings, read_recipe),
        "fine-tuning": of_yaml(tunings, finetune_recipe),
        "override": Kind("case", [overrides], yaml.safe_load, as_yaml, read_override),
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


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a value with a key or an index in it, but of long lists a few."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 8))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def mutated_value(value: Any, draw: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = list(places(value)) if isinstance(value, (dict, list)) else []
        if not found:
            return draw.choice(HOSTILE)
        container, key = draw.choice(found)
        act = draw.randrange(5)
        if act == 0:
            del container[key]
        elif act == 1 and isinstance(container, dict):
            name = draw.choice(("x", "../x", "\x1b[1m", "a\0", "y" * 2000, "__class__", key))
            container[name] = copy.deepcopy(draw.choice(HOSTILE))
        elif act == 2:
            other, place = draw.choice(found)
            if place in other if isinstance(other, dict) else place < len(other):
                container[key] = copy.deepcopy(other[place])
        elif act == 3 and isinstance(container[key], list):
            container[key] = container[key] * draw.choice((0, 2, 300))
        else:
            container[key] = copy.deepcopy(draw.choice(HOSTILE))
    return value


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        act = draw.randrange(5)
        if act == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif act == 1:
            del data[at : at + draw.randrange(1, 40)]
        elif act == 2:
            data[at:at] = data[at : at + draw.randrange(1, 40)]
        elif act == 3:
            data[at:at] = draw.choice(SNIPPETS)
        else:
            del data[at:]
    return bytes(data)


def case_of(kind: Kind, draw: random.Random) -> bytes:
    content = draw.choice(kind.contents)
    if draw.random() < 0.4:
        return mutated_bytes(content, draw)
    return kind.text(mutated_value(kind.parse(content), draw))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


def names_a_field(message: str, content: bytes) -> bool:
    """Whether a message begins with an option, or with a field of a schema or of the file."""
    if message.startswith(("--set ", "the document ")):
        return True
    name = re.match(r"(?:[\w:/+\[\]-]+|'[^']*'|\"[^\"]*\"|\.)+", message)
    if name is None:
        return False
    first = name[0].split(".")[0].strip("'\"").encode()
    return first.decode() in FIELDS or first[:20] in content or b"\\" in first


def try_case(kind: Kind, content: bytes, folder: Path) -> str:
    """Return "accepted" or "refused"; fail where a file is refused in any other way than it may."""
    path = folder / kind.file
    path.write_bytes(content)
    before = listing(folder)
    try:
        kind.read(path)
        outcome = "accepted"
    except InputError as error:
        text, outcome = str(error), "refused"
        assert REMEDY.search(text), f"no remedy: {text!r}"
        assert all(c.isprintable() or c == "\n" for c in text), f"not printable: {text!r}"
        assert len(text) < 20_000, f"{len(text)} characters: {text[:300]!r}"
        assert kind.file in text or names_a_field(text, content), f"no file, no field: {text!r}"
    assert listing(folder) == before, "a side effect"
    return outcome


def fuzz(kind: Kind, name: str, cases: int, folder: Path) -> Counter[str]:
    """Return how many cases were accepted and refused; what fails is kept in the message."""
    if name == "summary":
        write_config(folder / "config.yaml", parse_config(SMALL))
    counts: Counter[str] = Counter()
    for number in range(cases):
        content = case_of(kind, random.Random(f"{name} {number}"))
        try:
            counts[try_case(kind, content, folder)] += 1
        except Exception as error:
            start = content[:200]
            raise AssertionError(f"{name} {number}: {error!r} for {start!r}") from error
    return counts


FIELDS = {
    field for schema in (SearchConfig, Recipe, FinetuneSettings) for field in schema.model_fields
}
NAMES = (
    *("configuration", "training", "fine-tuning", "override", "plan", "table", "journal"),
    *("summary", "report"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "case").mkdir()
    monkeypatch.chdir(tmp_path / "case")
    return tmp_path / "case"


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_accepted_or_refused_in_words(
    digits_run: Path, folder: Path, name: str
) -> None:
    counts = fuzz(kinds(digits_run)[name], name, FAST, folder)
    assert counts["refused"] > FAST / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_mutated_files(digits_run: Path, folder: Path, name: str) -> None:
    each = -(-CASES // len(NAMES))
    counts = fuzz(kinds(digits_run)[name], name, each, folder)
    print(f"{name}: {counts['accepted']} accepted, {counts['refused']} refused")
    assert sum(counts.values()) == each
