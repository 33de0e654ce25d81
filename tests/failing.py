"""Digits with a score function that fails as the file named by ``AMC_TEST_FAULT`` says.

The file is read at each score, so that workers that run already can be told. Before a process kills
itself or sleeps, ``FILE.reached`` appears beside it. It holds one of

    none            the score as it is
    kill P          with probability P the process kills itself, unless it is the driver
    kill-once FILE  the first process to see this kills itself, after creating FILE
    raise, nan, inf, none-score, shape    one score in seven fails so, as the plan has it
    always-raise    every score fails
    sleep S [always]    one plan in seven takes S seconds, or each
    memory, memory-once FILE              no memory, always or the first time
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from amc.task import Task, accuracy
from amc.zoo.digits import digits

VARIABLE = "AMC_TEST_FAULT"
EVERY = 7
IMAGES = 120  # searched: one batch, so that a plan is one call of the score function
BROKEN: Final[dict[str, Callable[[], Any]]] = {
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "none-score": lambda: None,
    "shape": lambda: torch.zeros(3),
    "raise": lambda: np.zeros(3) @ np.zeros(4),
}


@dataclass(frozen=True)
class Faulty:
    """Accuracy, but for faults; ``driver`` is the process that made the task."""

    driver: int
    file: str

    def __call__(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the accuracy, or fail; few examples, as a task is checked with, never fail."""
        if len(labels) == IMAGES:
            kind, *words = Path(self.file).read_text().split()
            if (fault := self._fault(kind, words, outputs)) is not None:
                return fault()  # type: ignore[no-any-return]
        return accuracy(outputs, labels)

    def _fault(self, kind: str, words: list[str], outputs: Tensor) -> Callable[[], Any] | None:
        chosen = int(np.abs(outputs.numpy()).sum() * 1000) % EVERY == 0
        if kind == "kill":
            if os.getpid() != self.driver and random.SystemRandom().random() < float(words[0]):
                return self._die
        elif kind.endswith("-once"):
            if _first(Path(words[0])):
                return self._die if kind == "kill-once" else _no_memory
        elif kind == "memory":
            return _no_memory
        elif kind == "always-raise":
            return BROKEN["raise"]
        elif kind == "sleep":
            if chosen or words[1:] == ["always"]:
                self._reached()
                time.sleep(float(words[0]))
        elif chosen:
            return BROKEN.get(kind)
        return None

    def _die(self) -> None:
        self._reached()
        os.kill(os.getpid(), signal.SIGKILL)

    def _reached(self) -> None:
        Path(f"{self.file}.reached").touch()


def _first(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _no_memory() -> None:
    torch.empty(2**50)


def factory() -> Task:
    """Return the task, as ``tests.failing:factory``."""
    task = digits()
    score = Faulty(os.getpid(), os.environ[VARIABLE])
    return replace(task, search=task.search[:IMAGES], test=None, score=score)
