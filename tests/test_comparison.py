"""``amc compare --html`` and ``--curves``: what is read, grouped and drawn, and a safe page."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from amc import app
from amc.cli import application
from amc.comparison import curves_json, differences, groups_of, read_runs
from amc.errors import InputError
from amc.journal import read_journal
from amc.journal_lines import as_line
from amc.result_text import percent
from tests.test_plots import colours

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}$x^{"
AGENTS = ["ddpg", "netadapt", "uniform", "random_search"]


def copy_of(
    run: Path, to: Path, seed: int, config: dict[str, Any] | None = None, shift: float = 0.0
) -> Path:
    """Copy a run as one with another seed, its scores lower by ``shift``."""
    shutil.copytree(run, to)
    raw = yaml.safe_load((to / "config.yaml").read_text())
    (to / "config.yaml").write_text(yaml.safe_dump({**raw, "seeds": [seed], **(config or {})}))
    rows = json.loads((to / "summary.json").read_text())
    (to / "summary.json").write_text(json.dumps([{**row, "seed": seed} for row in rows]))
    for folder in sorted(to.glob("*-s0")):
        folder.rename(to / folder.name.replace("-s0", f"-s{seed}"))
    for journal in to.glob("*/journal.jsonl"):
        header, *records = map(json.loads, journal.read_text().splitlines())
        lower = [{**r, "score": r["score"] - shift, "reward": r["score"] - shift} for r in records]
        journal.write_text("".join(map(as_line, (header, *lower))))
    return to


@pytest.fixture
def two(digits_run: Path, tmp_path: Path) -> list[Path]:
    """The run, and one of seed 1 that is worse by five points."""
    return [digits_run, copy_of(digits_run, tmp_path / "other", 1, shift=0.05)]


class Page(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def test_searches_that_differ_in_the_seed_alone_are_one_group(two: list[Path]) -> None:
    groups = groups_of(read_runs(two))
    assert [group.label for group in groups] == AGENTS
    assert [[s.seed for s in group.searches] for group in groups] == [[0, 1]] * 4
    for line in curves_json(read_runs(two)):
        score = line["score"]
        assert score["searches"] == 2
        assert score["highest"][-1] - score["lowest"][-1] == pytest.approx(0.05)
        assert score["median"][-1] == pytest.approx(score["highest"][-1] - 0.025)
        assert line["reward"] is None


def test_another_configuration_is_a_group_of_its_own(digits_run: Path, tmp_path: Path) -> None:
    other = copy_of(digits_run, tmp_path / "other", 0, {"recovery": "none"})
    runs = read_runs([digits_run, other])
    assert [group.label for group in groups_of(runs)][:1] == [f"ddpg ({digits_run.name})"]
    assert len(groups_of(runs)) == 8
    assert differences(runs) == {"recovery": ["batch_norm", "none"]}
    assert differences(read_runs([digits_run, digits_run])) == {}
    third = copy_of(other, tmp_path / "third", 0, {"workers": 1})
    labels = [group.label for group in groups_of(read_runs([other, digits_run, third]))]
    assert labels[:1] == ["ddpg (other and 1 more)"]
    assert labels[4:5] == [f"ddpg ({digits_run.name})"]


def test_the_curve_ends_at_the_winner_of_the_summary(digits_run: Path) -> None:
    rows = json.loads((digits_run / "summary.json").read_text())
    for line, row in zip(curves_json(read_runs([digits_run])), rows, strict=True):
        assert line["agent"] == row["agent"]
        assert line["score"]["median"][-1] == row["search_accuracy"]
        assert len(line["score"]["median"]) == row["evaluations"]


def test_the_page_holds_tables_charts_and_differences(two: list[Path], tmp_path: Path) -> None:
    raw = yaml.safe_load((two[1] / "config.yaml").read_text())
    (two[1] / "config.yaml").write_text(yaml.safe_dump({**raw, "walks": 3}))
    answer = app.compare(two, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert answer["page"] == str(tmp_path / "page.html")
    assert [row["run_dir"] for row in answer["rows"]] == [str(two[0])] * 4 + [str(two[1])] * 4
    for row in answer["rows"]:
        assert percent(row["search_accuracy"]) in page.text
    for text in ("walks", "3", "4", "speed up", "layer3.0.conv2", "other: ddpg seed 1"):
        assert text in page.text
    pictures = [attrs for tag, attrs in page.tags if tag in {"img", "source"}]
    assert len(pictures) == 4, "trade-off and curves, for light and for dark"
    assert len({str(one) for one in pictures}) == 4
    bars = [attrs["style"] for tag, attrs in page.tags if "keep" in (attrs.get("class") or "")]
    assert len(bars) == 8 * 6, "a bar a site and winner"
    assert app.compare(two, tmp_path / "again.html")["rows"] == answer["rows"]
    assert (tmp_path / "again.html").read_text() == (tmp_path / "page.html").read_text()


def test_the_page_loads_nothing_and_runs_nothing(digits_run: Path, tmp_path: Path) -> None:
    app.compare([digits_run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "a", "form"}
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "srcset", "href"):
            assert str(attrs.get(name, "data:image/png;base64,")).startswith("data:image/png;")
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"@import|url\(", text)
    policy = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_hostile_text_of_a_run_is_text(digits_run: Path, tmp_path: Path) -> None:
    folder = copy_of(digits_run, tmp_path / HOSTILE.replace("/", ""), 0, {"experiment": HOSTILE})
    rows = json.loads((folder / "summary.json").read_text())
    changed = [{**row, "recovery": HOSTILE, "backend": HOSTILE} for row in rows]
    (folder / "summary.json").write_text(json.dumps(changed))
    for plan in folder.glob("*/plan.json"):
        value = json.loads(plan.read_text())
        first, *others = value["choices"].items()
        value["choices"] = {HOSTILE: first[1], **dict(others)}
        plan.write_text(json.dumps(value))
    app.compare([digits_run, folder], tmp_path / "page.html", tmp_path / "curves.png")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "<img src=x" not in text
    assert not [attrs for tag, attrs in page.tags if "onerror" in attrs or attrs.get("src") == "x"]
    assert page.text.count(HOSTILE) >= 4 + 1, "recoveries, site and difference, as they are"
    assert "49$x^{" not in text, "no text is a template"


def test_the_option_writes_a_picture_and_says_where(digits_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.png"
    result = CliRunner().invoke(application, ["compare", str(digits_run), "--curves", str(out)])
    assert result.exit_code == 0, result.output
    assert f"Picture: {out}" in result.stdout
    assert len(colours(out)) > 10


def test_runs_of_two_tasks_have_no_common_curves(two: list[Path], tmp_path: Path) -> None:
    raw = yaml.safe_load((two[1] / "config.yaml").read_text())
    (two[1] / "config.yaml").write_text(yaml.safe_dump({**raw, "task": "resnet8"}))
    with pytest.raises(InputError, match="digits at batch 64 and resnet8 at batch 64"):
        app.compare(two, curves=tmp_path / "c.png")
    app.compare(two, tmp_path / "page.html")
    headings = [
        text for text in Page((tmp_path / "page.html").read_text()).text if "batches" in text
    ]
    assert headings == ["digits, batches of 64", "resnet8, batches of 64"]


def test_a_page_of_runs_with_the_same_name_names_their_folders(
    digits_run: Path, tmp_path: Path
) -> None:
    other = copy_of(digits_run, tmp_path / digits_run.name, 1)
    assert [run.label for run in read_runs([digits_run, other])] == [str(digits_run), str(other)]


def test_where_the_page_goes_is_checked_first(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--html .* is a folder"):
        app.compare([tmp_path / "no run"], html=tmp_path)
    with pytest.raises(InputError, match=r"--curves .* is a folder"):
        app.compare([tmp_path / "no run"], curves=tmp_path)


def test_a_journal_that_is_looked_at_is_left_alone(digits_run: Path, tmp_path: Path) -> None:
    journal = copy_of(digits_run, tmp_path / "run", 0) / "ddpg-s0" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"half')
    read_runs([tmp_path / "run"])
    assert journal.read_bytes() == whole + b'{"half'
    read_journal(journal)
    assert journal.read_bytes() == whole + b'{"half'


def test_a_search_without_a_row_is_told(digits_run: Path, tmp_path: Path) -> None:
    run = copy_of(digits_run, tmp_path / "run", 0)
    rows = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(InputError, match="no result of ddpg-s0 in its summary.json"):
        app.compare([run], tmp_path / "page.html")
    (run / "summary.json").write_text(json.dumps([{**row, "dense": {}} for row in rows]))
    with pytest.raises(InputError, match="ddpg-s0 has no number at dense.macs"):
        app.compare([run], tmp_path / "page.html")
