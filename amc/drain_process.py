"""The process that delivers a run's outboxes to MLflow, seen from the run that it serves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from amc.drain import END, GO, LOADED, PAUSE, left_in
from amc.layout import ROOT
from amc.reporting import Reporter
from amc.store_uri import OFF, SQLITE, URI, chosen, default_store, parts

# How long the end of a run waits. A server may hang; what loads MLflow or writes to a file on a
# busy machine is slow, and known to come to an end.
WITHOUT_PROGRESS_S, AT_MOST_S = 10.0, 60.0
INTERRUPTED_S = 3.0
BAR_AFTER_S = 1.0
LOOK_S = 0.05


class DrainProcess:
    """A running drain of ``run_dir``, or none where it could not be started."""

    def __init__(self, run_dir: Path, store: str, process: subprocess.Popen[bytes] | None) -> None:
        self._run_dir, self._store, self._process = run_dir, store, process
        self._loaded = False
        if process is not None and process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Let it deliver nothing during the block, in which things are timed."""
        self._order(PAUSE)
        try:
            yield
        finally:
            self._order(GO)

    def end(self, reporter: Reporter, at_most_s: float = AT_MOST_S) -> None:
        """Wait while it delivers what is left, end it, and say what is left then."""
        if self._process is None:
            return
        try:
            self._order(END)
            self._wait(reporter, at_most_s)
        finally:
            _kill(self._process)
        left, total, error = left_in(self._run_dir, self._store)
        if left:
            because = f" ({error})" if error else ""
            reporter.message(
                f"note: {left} of {total} entries wait for MLflow{because}; the run is complete "
                f"without them; deliver them with: amc sync {self._run_dir}"
            )

    def _wait(self, reporter: Reporter, at_most_s: float) -> None:
        assert self._process is not None
        begin = heard = time.monotonic()
        local = self._store.startswith(SQLITE)
        with contextlib.ExitStack() as stack:
            bar, shown = None, 0
            while self._process.poll() is None:
                now = time.monotonic()
                heard = now if self._heard() else heard
                patience_s = WITHOUT_PROGRESS_S if self._loaded and not local else at_most_s
                if now - begin > at_most_s or now - heard > patience_s:
                    return
                if now - begin > BAR_AFTER_S:
                    left = self._left() if bar is None or heard == now else shown
                    if bar is None and left:
                        bar = stack.enter_context(reporter.task("delivering to MLflow", left))
                    elif bar is not None and left < shown:
                        bar.advance(shown - left)
                    shown = left
                time.sleep(LOOK_S)

    def _left(self) -> int:
        return left_in(self._run_dir, self._store)[0]

    def _heard(self) -> bool:
        assert self._process is not None
        assert self._process.stdout is not None
        words = self._process.stdout.read() or b""
        self._loaded = self._loaded or LOADED in words
        return bool(words)

    def _order(self, word: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._process.stdin.write(f"{word}\n".encode())
                self._process.stdin.flush()


@contextlib.contextmanager
def draining(run_dir: Path, uri: str | None, reporter: Reporter) -> Iterator[DrainProcess]:
    """Yield the process that delivers ``run_dir`` during the block; none with the URI ``off``.

    Afterwards it is waited for, shortly where the run was interrupted, and ended in any case.
    """
    store = chosen(uri) or default_store(run_dir)
    process = None if store == OFF else _start(run_dir, uri, reporter)
    drain = DrainProcess(run_dir, parts(store).public, process)
    try:
        yield drain
    except KeyboardInterrupt:
        drain.end(reporter, INTERRUPTED_S)
        raise
    except BaseException:
        drain.end(reporter, WITHOUT_PROGRESS_S)
        raise
    drain.end(reporter)


def _start(run_dir: Path, uri: str | None, reporter: Reporter) -> subprocess.Popen[bytes] | None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if store := chosen(uri):
        environment[URI] = store  # with the password that the environment has for it
    try:
        return subprocess.Popen(
            # -P: nothing in the working folder takes the place of a module.
            [sys.executable, "-P", "-m", "amc.drain", str(run_dir.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for the search
            bufsize=0,
        )
    except OSError as error:
        reporter.message(
            f"warning: no process for tracking could be started ({error}); the search goes on; "
            f"deliver its numbers with: amc sync {run_dir}"
        )
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, asked first, and close what leads to it."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    for stop in (process.terminate, process.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.poll() is None:
                stop()
            process.wait(timeout=1.0)
            return
    process.wait()
