"""Weights that later evaluations start from, by the digest of the request that left them.

They are kept in memory, and written to disk, named by their content, as soon as a request builds on
them. Weights that a killed search had not yet written are made again, by the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors.numpy import load_file, save

from amc.errors import InputError
from amc.evaluation import Evaluation, Request
from amc.files import write_bytes
from amc.task import state_digest
from amc.worker import Outcome, Start, State, state_tensors


def state_sha256(state: State) -> str:
    """Return the content digest of a set of weights."""
    return state_digest(state_tensors(state))


REMEMBERED_BYTES = 2**30


def _bytes(state: State) -> int:
    return sum(array.nbytes for array in state.values())


class Weights:
    """Finds the weights that an evaluation left. ``rerun`` makes them again where they are lost.

    The latest ``REMEMBERED_BYTES`` of them stay in memory.
    """

    def __init__(self, folder: Path, rerun: Callable[[Request], Outcome]) -> None:
        self._folder, self._rerun = folder, rerun
        self._known: dict[str, Evaluation] = {}
        self._states: dict[str, State] = {}

    def note(self, evaluation: Evaluation, state: State | None = None) -> None:
        """Remember an evaluation, and its weights where they are at hand."""
        self._known[evaluation.key] = evaluation
        if state is None:
            return
        self._states[evaluation.key] = state
        while len(self._states) > 1 and sum(map(_bytes, self._states.values())) > REMEMBERED_BYTES:
            del self._states[next(iter(self._states))]  # the oldest

    def start(self, key: str) -> Start:
        """Return plan and weights of the evaluation ``key``, on disk from now on."""
        if key not in self._known:
            raise InputError(f"parent {key!r} is no earlier request of this search")
        evaluation = self._known[key]
        if evaluation.weights_sha256 is None:
            raise InputError(f"parent {key!r} was not fine-tuned, so it left no weights")
        path = self._folder / f"{evaluation.weights_sha256}.safetensors"
        if key not in self._states and path.is_file():
            state = _read(path)
            if state is not None and state_sha256(state) == evaluation.weights_sha256:
                self._states[key] = state
            else:
                path.unlink()  # damaged: made again below
        if key not in self._states:
            state = self._rerun(evaluation.request).state
            if state is None or state_sha256(state) != evaluation.weights_sha256:
                raise InputError(
                    f"the weights of request {key!r} are lost and come out different on this "
                    "machine; start a new run in another folder"
                )
            self._states[key] = state
        if not path.is_file():
            write_bytes(path, save(self._states[key]))
        return Start(evaluation.request.plan, self._states[key])

    def forget_others(self, keys: Iterable[str]) -> None:
        """Drop from memory all weights but those of ``keys``; they can be made again."""
        wanted = set(keys)
        self._states = {key: state for key, state in self._states.items() if key in wanted}


def _read(path: Path) -> State | None:
    try:
        return load_file(path)
    except Exception:  # safetensors raises a type of its own that it does not export
        return None
