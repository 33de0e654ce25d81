"""Progress: bars on a terminal, a few lines in a log, nothing for programs."""

from __future__ import annotations

import io

from rich.console import Console

from amc.reporting import Reporter, RichReporter, SilentReporter


def rich_reporter(terminal: bool) -> tuple[RichReporter, io.StringIO]:
    out = io.StringIO()
    return RichReporter(Console(file=out, force_terminal=terminal, width=120)), out


def test_a_log_gets_five_lines_a_bar() -> None:
    reporter, out = rich_reporter(terminal=False)
    with reporter.task("ddpg", 60) as bar:
        for i in range(60):
            bar.advance(1, f"best 0.{i:02d}")
    lines = out.getvalue().splitlines()
    assert lines[0] == "ddpg: 12/60, best 0.11"
    assert len(lines) == 5


def test_a_terminal_gets_bars_with_the_best_so_far() -> None:
    reporter, out = rich_reporter(terminal=True)
    with reporter.task("ddpg", 4) as outer:
        outer.advance(2, "best 0.81")
        inner = reporter.task("measuring", None)
        inner.advance()
        reporter.message("[a message] in brackets")
        with inner:
            pass
        outer.advance(2)
    text = out.getvalue()
    assert "4/4" in text
    assert "best 0.81" in text
    assert "[a message] in brackets" in text


def test_bars_follow_each_other_after_one_was_left_open() -> None:
    reporter, out = rich_reporter(terminal=True)
    reporter.task("left open", 3).advance()
    reporter.close()
    with reporter.task("next", 1) as bar:
        bar.advance()
    assert "1/1" in out.getvalue()


def test_silence_and_hints() -> None:
    reporter: Reporter = SilentReporter()
    with reporter.task("ddpg", 2) as bar:
        bar.advance(2, "note")
    reporter.message("nothing")
    reporter.hint("nothing")
    rich, _ = rich_reporter(terminal=False)
    rich.hint("amc resume runs/x")
    assert rich.last_hint == "amc resume runs/x"
