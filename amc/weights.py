"""Weights that later evaluations start from, by the digest of the request that left them.

They are kept in memory and on disk, named by their content, from before the journal names them, so
that a search that is killed finds them again. Those that no request builds on and no result needs
are deleted. Weights that are lost all the same are made again, by the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.files import sync, write_bytes
from amc.printable import printable
from amc.task import state_digest
from amc.worker import Outcome, Start, State, state_tensors


def state_sha256(state: State) -> str:
    """Return the content digest of a set of weights."""
    return state_digest(state_tensors(state))


REMEMBERED_BYTES = 2**30
SUFFIX = ".safetensors"


def _bytes(state: State) -> int:
    return sum(array.nbytes for array in state.values())


class Weights:
    """Finds the weights that an evaluation left. ``rerun`` makes them again where they are lost.

    The latest ``REMEMBERED_BYTES`` of them stay, beside those that were asked for. With
    ``elsewhere`` lost weights may come out different, for another machine had made them.
    """

    def __init__(
        self, folder: Path, rerun: Callable[[Request], Outcome], *, elsewhere: bool = False
    ) -> None:
        self._folder, self._rerun, self._elsewhere = folder, rerun, elsewhere
        self._known: dict[str, Evaluation] = {}
        self._states: dict[str, State] = {}
        self._used: set[Path] = set()
        self._whole: set[Path] = set()  # what this process has written or read; else it may be torn

    def note(self, evaluation: Evaluation, state: State | None = None) -> None:
        """Remember an evaluation, and its weights where they are at hand."""
        self._known[evaluation.key] = evaluation
        if state is None:
            return
        self._states[evaluation.key] = state
        path = self._path(evaluation)
        if path not in self._whole:
            self._write(path, state, sync=False)
        while len(self._states) > 1 and sum(map(_bytes, self._states.values())) > REMEMBERED_BYTES:
            self._forget(next(iter(self._states)))  # the oldest

    def start(self, key: str) -> Start:
        """Return plan and weights of the evaluation ``key``, on disk for good from now on."""
        if key not in self._known:
            raise InputError(f"parent {key!r} is no earlier request of this search")
        evaluation = self._known[key]
        if evaluation.weights_sha256 is None:
            raise InputError(f"parent {key!r} was not fine-tuned, so it left no weights")
        path = self._path(evaluation)
        if key not in self._states and path.is_file():
            state = _read(path)
            if state is not None and state_sha256(state) == evaluation.weights_sha256:
                self._states[key] = state
                self._whole.add(path)
            else:
                path.unlink()  # damaged: made again below
        if key not in self._states:
            evaluation = self._make_again(key)
            path = self._path(evaluation)
        if path not in self._used:
            self._used.add(path)
            if path in self._whole and path.is_file():
                sync(path)
            else:
                self._write(path, self._states[key])
        return Start(evaluation.request.plan, self._states[key])

    def _make_again(self, key: str) -> Evaluation:
        evaluation = self._known[key]
        state = self._rerun(evaluation.request).state
        found = None if state is None else state_sha256(state)
        if state is None or (found != evaluation.weights_sha256 and not self._elsewhere):
            raise InputError(
                f"the weights of request {key!r} are lost and come out different on this "
                "machine; start a new run in another folder"
            )
        self._states[key] = state
        self._known[key] = replace(evaluation, weights_sha256=found)
        return self._known[key]

    def kept(self, evaluation: Evaluation) -> Evaluation:
        """Return ``evaluation``, its weights on disk for good, under the name that it has."""
        if evaluation.weights_sha256 is None:
            return evaluation
        self.start(evaluation.key)
        return replace(evaluation, weights_sha256=self._known[evaluation.key].weights_sha256)

    def forget_others(self, keys: Iterable[str]) -> None:
        """Drop all weights but those of ``keys`` and those that were used; they can be made again.

        The files of those that were used stay.
        """
        wanted = set(keys)
        for key in [key for key in self._states if key not in wanted]:
            self._forget(key)

    def drop_unused(self) -> None:
        """Delete the files of all weights that no one asked for, also of an earlier process."""
        for path in self._folder.glob(f"*{SUFFIX}"):
            if path not in self._used:
                path.unlink()

    def _write(self, path: Path, state: State, sync: bool = True) -> None:
        write_bytes(path, save(state), sync=sync)
        self._whole.add(path)

    def _forget(self, key: str) -> None:
        del self._states[key]
        path = self._path(self._known[key])
        if path not in self._used:
            path.unlink(missing_ok=True)
            self._whole.discard(path)

    def _path(self, evaluation: Evaluation) -> Path:
        return self._folder / f"{evaluation.weights_sha256}{SUFFIX}"


def read_state(path: Path) -> State:
    """Return the arrays in a safetensors file: finite numbers; ``InputError`` for anything else."""
    name = f"weights {printable(repr(str(path)))}"
    try:
        state: State = load_file(path)
    except Exception as error:  # safetensors raises a type of its own that it does not export
        why = printable(str(error) or type(error).__name__, 300)
        raise InputError(f"{name} are not readable safetensors: {why}; restore the file") from None
    for key, array in state.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise InputError(
                f"{name}: {printable(key, 200)} holds what is no finite number; restore the file"
            )
    return state


def _read(path: Path) -> State | None:
    try:
        return read_state(path)
    except InputError:
        return None
