"""What a long piece of work says while it runs: progress, messages, and how to go on later."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

LINES_WITHOUT_TERMINAL = 5


class Handle(Protocol):
    """One running bar. It may be used in a ``with`` block, which ends it; its total ends it too."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Report ``n`` more steps done; ``note`` stands behind the bar (the best so far, say)."""
        ...

    def __enter__(self) -> Handle: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Reporter(Protocol):
    """Receives what a person may want to watch. It never takes part in a result."""

    def task(self, description: str, total: int | None) -> Handle:
        """Return a bar of ``total`` steps (``None``: unknown), which is shown from now on."""
        ...

    def message(self, text: str) -> None:
        """Say one line."""
        ...

    def hint(self, text: str) -> None:
        """Keep what an interruption from now on should say, such as ``amc resume DIR``."""
        ...


class QuietHandle:
    """A bar that shows nothing."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Drop the step."""

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return


class SilentReporter:
    """Says nothing. For tests, for programs, and for workers."""

    def task(self, description: str, total: int | None) -> Handle:
        """Return a handle that does nothing."""
        return QuietHandle()

    def message(self, text: str) -> None:
        """Drop ``text``."""

    def hint(self, text: str) -> None:
        """Drop ``text``."""


class RichReporter:
    """Bars with time left and best so far on standard error; plain lines where that is no terminal.

    ``last_hint`` is the latest text given to ``hint``.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._open = 0
        self.last_hint = ""

    def task(self, description: str, total: int | None) -> Handle:
        """Return a bar; bars that run at the same time stand below each other."""
        if not self._console.is_terminal:
            return _Lines(self._console, description, total)
        if self._progress is None:
            self._progress = _new_progress(self._console)
            self._progress.start()
        self._open += 1
        return _Bar(self, self._progress, description, total)

    def message(self, text: str) -> None:
        """Print ``text`` on its own line, above any bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def hint(self, text: str) -> None:
        """Keep ``text`` for an interruption."""
        self.last_hint = text

    def close(self) -> None:
        """End all bars, so that the terminal is left as it was found."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._open = None, 0

    def bar_ended(self, progress: Progress) -> None:
        """Take note that one bar of ``progress`` has ended; the display ends with the last one."""
        if progress is self._progress:
            self._open -= 1
            if self._open == 0:
                self.close()


class _Bar:
    def __init__(
        self, owner: RichReporter, progress: Progress, description: str, total: int | None
    ) -> None:
        self._owner, self._progress, self._total = owner, progress, total
        self._id = progress.add_task(description, total=total, note="")
        self._done, self._ended, self._note = 0, False, ""

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        self._progress.update(self._id, advance=n, note=self._note)
        if self._total is not None and self._done >= self._total:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._progress.stop_task(self._id)
            self._owner.bar_ended(self._progress)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()


class _Lines(QuietHandle):
    """A bar as a few printed lines, for logs: one each fifth of the total."""

    def __init__(self, console: Console, description: str, total: int | None) -> None:
        self._console, self._description, self._total = console, description, total
        self._done, self._said = 0, 0
        if total is None:
            self._say(f"{description} ...")

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        if self._total is None:
            return
        part = LINES_WITHOUT_TERMINAL * self._done // max(1, self._total)
        if part > self._said:
            self._said = part
            text = f"{self._description}: {self._done}/{self._total}"
            self._say(f"{text}, {note}" if note else text)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _new_progress(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeftColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeLeftColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
