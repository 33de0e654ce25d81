"""What tests ask of processes: whether they live, and to wait until something has come about."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def soon(condition: Callable[[], Any], within_s: float = 120.0) -> bool:
    """Return whether ``condition`` comes true; ``within_s`` is how long a test may hang."""
    deadline = time.monotonic() + within_s
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(true)


def alive(process: int) -> bool:
    """Return whether a process runs; one that has ended may wait for its parent to notice."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()
    return state != "Z"
