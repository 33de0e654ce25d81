"""Ctrl-C and SIGTERM: the first one ends in order what runs, another one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Within which signals are one: timeout(1) sends two, one to the process and one to its group.
ONE_S = 1.0
_LEFT: list[Callable[[], None]] = []  # ends of processes that nobody else would end


class Interruption:
    """Handles the signals of one process: raises ``KeyboardInterrupt``, then leaves at once.

    The latter is for a thread of its own: a library that hangs lets no handler of Python run. A
    private Ray, and what delivers to MLflow, end themselves once their owner is gone.
    """

    def __init__(self) -> None:
        self._raised = False
        self._first_s: float | None = None

    def install(self) -> None:
        """Handle Ctrl-C and SIGTERM from now on; in the main thread."""
        numbers, told = os.pipe()
        os.set_blocking(told, False)
        threading.Thread(target=self._listen, args=(numbers,), daemon=True).start()
        for number in SIGNALS:
            signal.signal(number, self._interrupt)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def arrived(self, number: int) -> None:
        """Take note of a signal; leave if there was one before."""
        now_s = time.monotonic()
        if number not in SIGNALS:
            return
        if self._first_s is None:
            self._first_s = now_s
        elif now_s - self._first_s > ONE_S:
            with contextlib.suppress(OSError):
                os.write(2, b"\ninterrupted again: ended at once\n")
            for end in _LEFT:
                with contextlib.suppress(OSError):
                    end()
            os._exit(EXIT_CODE)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _listen(self, numbers: int) -> None:
        while received := os.read(numbers, 1):
            self.arrived(received[0])


@contextlib.contextmanager
def ended_with_us(end: Callable[[], None]) -> Iterator[None]:
    """Call ``end`` where this process leaves at once during the block; from another thread."""
    _LEFT.append(end)
    try:
        yield
    finally:
        _LEFT.remove(end)
