"""Delivery of a run's outboxes to MLflow: by hand, or in a process beside the run.

``python -m amc.drain RUN_DIR`` is that process: neither MLflow's random numbers nor its waiting
touch the search. It listens to its parent on standard input (``amc.drain_process``), and ends
itself soon after the parent has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from amc.contained import inside
from amc.delivery import Delivery, counts
from amc.errors import InputError
from amc.outbox_folders import outboxes
from amc.store_uri import authorised, chosen, default_store, masked, parts

LOCK = ".sync.lock"
POLL_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
GRACE_S = 8  # to deliver what is there, once the parent is gone; then it ends, two seconds later
NICENESS = 10
PAUSE, GO, END = "pause", "go", "end"
LOADED, PROGRESS, QUIET = b"l", b".", b"q"


class Drain:
    """The deliveries of all searches in ``run_dir`` to one store."""

    def __init__(self, run_dir: Path, uri: str) -> None:
        self._run_dir, self._uri = run_dir, uri
        self._deliveries: dict[Path, Delivery] = {}

    def round(
        self, progress: Callable[[Path, int], None], go_on: Callable[[], bool] = lambda: True
    ) -> str | None:
        """Deliver all that waits; return what went wrong, on one line and without secrets.

        ``progress`` is told the folder and the number of entries after each call. A store that does
        not answer ends the round; one that refuses, only that search's part of it.
        """
        trouble = None
        for folder in outboxes(self._run_dir):
            delivery = None
            try:
                delivery = self._delivery(folder)
                with authorised(self._uri) as uri:
                    self._target = uri
                    while go_on() and (count := delivery.step()):
                        progress(folder, count)
            except Exception as error:  # whatever a store may raise, the next attempt may do
                trouble = masked(_one_line(error), self._uri)
                if delivery is not None:
                    delivery.failed(trouble)
                if not _of_this_search(error):
                    break
        return trouble

    def _delivery(self, folder: Path) -> Delivery:
        if folder not in self._deliveries:
            from amc.mlflow_tracking import MlflowRecord

            inside(self._run_dir, folder)
            artifacts = self._run_dir.resolve().parent / "mlartifacts"
            self._deliveries[folder] = Delivery(
                folder,
                parts(self._uri).public,
                lambda start: MlflowRecord(self._target, start, artifacts),
            )
        return self._deliveries[folder]


@contextlib.contextmanager
def only_one(run_dir: Path, timeout_s: float = 0.0) -> Iterator[bool]:
    """Yield whether this is now the one process that delivers ``run_dir``, until the block ends."""
    lock = FileLock(run_dir / LOCK, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def left_in(run_dir: Path, store: str) -> tuple[int, int, str | None]:
    """Return how many entries of the run wait, of how many, and the last error."""
    found = [counts(folder, store) for folder in outboxes(run_dir)]
    errors = [error for delivered, total, error in found if error and delivered < total]
    total = sum(total for _, total, _ in found)
    return total - sum(delivered for delivered, _, _ in found), total, next(iter(errors), None)


def _of_this_search(error: Exception) -> bool:
    from amc.mlflow_tracking import is_refusal

    own = (InputError, FileNotFoundError, PermissionError)
    return isinstance(error, own) or is_refusal(error)


def _one_line(error: BaseException) -> str:
    """Return what is behind ``error``: of a server that is away, the system's word for that."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and type(behind).__module__ in {"builtins", "socket"}:
            error = behind
        behind = behind.__cause__ or behind.__context__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


class Orders:
    """What the parent wants, heard in a thread of its own; its end is an order too."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._parent = os.getppid()
        self.paused = self.ended = self._alone = False
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or when an order comes."""
        deadline = time.monotonic() + seconds
        while not self._news.wait(max(0.0, min(POLL_S, deadline - time.monotonic()))):
            if os.getppid() != self._parent:  # its pipe may live on in a child of its
                self._orphaned()
            if time.monotonic() >= deadline:
                return
        self._news.clear()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.paused = line.strip() == PAUSE
            self.ended = self.ended or line.strip() == END
            self._news.set()
        self._orphaned()

    def _orphaned(self) -> None:
        if not self._alone:
            self._alone = True
            signal.alarm(GRACE_S)
            last = threading.Timer(GRACE_S + 2, os._exit, (1,))
            last.daemon = True
            last.start()
        self.paused, self.ended = False, True
        self._news.set()


def main(run_dir: Path) -> int:
    """Deliver what comes until the parent ends it; return 1 where something is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _leave)
    os.nice(NICENESS)
    os.set_blocking(sys.stdout.fileno(), False)
    orders = Orders()
    import amc.mlflow_tracking  # noqa: F401  # slow: before it is needed

    _say(LOADED)
    while True:
        with only_one(run_dir) as mine:
            if mine:
                return _deliver(Drain(run_dir, chosen(None) or default_store(run_dir)), orders)
        if orders.ended:
            return 1
        orders.wait(POLL_S)


def _deliver(drain: Drain, orders: Orders) -> int:
    pause_s = FIRST_PAUSE_S
    while True:
        last = orders.ended  # before the round, which then finds all there will be
        trouble = None
        if orders.paused:
            _say(QUIET)
        else:
            trouble = drain.round(lambda *_: _say(PROGRESS), lambda: not orders.paused)
        if last:
            return 1 if trouble else 0
        orders.wait(pause_s if trouble else POLL_S)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if trouble else FIRST_PAUSE_S


def _say(word: bytes) -> None:
    """Tell the parent; it may not listen, or be gone."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), word)


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
