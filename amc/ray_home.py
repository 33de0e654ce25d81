"""The folder of a private Ray. It ends with its owner, and so does every process of that Ray.

Ray's own processes notice the death of their driver, but two agents of it take a minute. So a small
process of the owner's (this module, run) waits until the owner is gone, however it ended, and then
ends what writes into the folder, and removes it. Where that process was killed too, the next
private Ray on this machine does so. Linux alone lists what other processes write to; elsewhere only
folders are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = "amc-ray-"
LOCK = "owner.lock"  # held for as long as the owner lives
PATIENCE_S = 10.0


class RayHome:
    """A new folder ``path`` for one private Ray, this process's own until ``close``."""

    def __init__(self) -> None:
        sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Locked before it has its name: a lock that can be found is held, or its owner is dead.
        unnamed = self.path / f".{LOCK}"
        self._lock = unnamed.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unnamed.rename(self.path / LOCK)
        # No module of the owner's folder may stand in for one of Python's own.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self.path), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # no signal of the terminal reaches it
        )

    def keep(self, token: str) -> Path:
        """Return a file that holds ``token``, which its owner alone may read."""
        file = self.path / "token"
        file.touch(mode=0o600)
        file.write_text(token)
        return file

    def close(self) -> None:
        """End what is left of the Ray, and remove the folder."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        try:
            self._reaper.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._reaper.kill()
            self._reaper.wait()
        self._lock.close()


def sweep(parent: Path) -> None:
    """End what dead owners of this user left in ``parent``: processes, then folders."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / LOCK).open("r+") as lock:
            if os.fstat(lock.fileno()).st_uid != os.getuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError where it is held
            end(folder, spare={os.getpid()})


def end(folder: Path, spare: set[int]) -> None:
    """Kill every process whose output goes into ``folder``, but for ``spare``; remove it."""
    folder, deadline = folder.resolve(), time.monotonic() + PATIENCE_S
    while (living := writers(folder) - spare) and time.monotonic() < deadline:
        for process in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def writers(folder: Path) -> set[int]:
    """Return the processes of this user that have a file in ``folder`` open for writing."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if process.stat().st_uid == os.getuid() and _writes(process, folder):
                found.add(int(process.name))
    return found


def _writes(process: Path, folder: Path) -> bool:
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.readlink().is_relative_to(folder):
                flags = (process / "fdinfo" / descriptor.name).read_text().split("flags:")[1]
                if int(flags.split()[0], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False


def worker_environment() -> dict[str, str]:
    """Return the variables of workers: modules are found as here, libraries use one thread."""
    paths = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Keep whoever handles SIGTERM: Ray has two handlers that end this process in their own way.

    One is Python's. The other is beneath it: it calls ours, and aborts the process 3 s later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # nobody can set handlers there, Ray neither
        return
    set_handler = signal.signal

    def all_but_the_end(number: int, handler: Any) -> Any:
        return None if number == signal.SIGTERM else set_handler(number, handler)

    signal.signal = all_but_the_end  # type: ignore[assignment]
    try:
        yield
    except BaseException:
        signal.alarm(0)  # those 3 s
        raise
    finally:
        signal.signal = set_handler
        if (own := signal.getsignal(signal.SIGTERM)) is not None:
            signal.signal(signal.SIGTERM, own)


def _reap(folder: Path, owner: int) -> None:
    """Wait until the owner is gone or lets go, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(folder, spare={owner, os.getpid()})


if __name__ == "__main__":
    _reap(Path(sys.argv[1]), int(sys.argv[2]))
