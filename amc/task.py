"""``Task``: a trained network with its data; the zoo's, or a user's own factory."""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from amc.data import Data
from amc.errors import InputError
from amc.plan import digest
from amc.registry import lookup, nearest
from amc.zoo import ZOO

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Task:
    """A trained network, the inputs of one call, and up to three splits of data.

    ``example_inputs`` is a tensor or a tuple of them, with a batch dimension. ``score(outputs,
    labels)`` gives one batch's score, higher is better; by default it is top-1 accuracy. A split
    without labels is labelled with the dense network's outputs, so that the score is agreement with
    it. A factory named on the command line is code that you chose to run.
    """

    network: nn.Module
    example_inputs: Tensor | tuple[Tensor, ...]
    train: Data
    search: Data
    test: Data | None = None
    score: Score | None = None


@dataclass(frozen=True)
class LoadedTask:
    """A ``Task`` made ready: named, checked, labelled; ``inputs`` is always a tuple."""

    name: str
    network: nn.Module
    inputs: tuple[Tensor, ...]
    train: Data
    search: Data
    test: Data | None
    score: Score
    network_digest: str
    score_name: str

    @property
    def without_test(self) -> LoadedTask:
        """The task as a search may see it."""
        return replace(self, test=None)

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Return one batch of ``size`` search inputs, repeated where there are too few."""
        return self.search[torch.arange(size) % len(self.search)].channels_last().inputs


def load_task(
    name: str, data: Literal["pack", "full"] = "pack", data_folder: str | None = None
) -> LoadedTask:
    """Return the zoo's task ``name``, or what the factory ``package.module:factory`` returns.

    Raises ``InputError`` for an unknown name, a factory that cannot be imported, that fails or does
    not return a ``Task``, for weights that are not finite, and for parts that do not fit together.
    """
    if ":" in name:
        if data != "pack":
            raise InputError(
                f"data {data!r} is for the zoo's tasks; {name!r} brings its own: use 'pack'"
            )
        task = _made(name)
    else:
        task = lookup(ZOO, name, "task")(data, data_folder)
    if not isinstance(task, Task):
        raise InputError(
            f"task {name!r} must return amc.task.Task, but returned {type(task).__name__}"
        )
    return _ready(name, task)


def _made(name: str) -> Any:
    """Return what a user's factory returns; ``InputError`` names the exception where it fails."""
    factory = _factory(name)
    try:
        return factory()
    except InputError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"task {name!r}: the factory failed at {last.filename}:{last.lineno}: {_brief(error)}"
        ) from error


def _brief(error: Exception) -> str:
    """Return an exception's class and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def _factory(name: str) -> Callable[[], Any]:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError(f"task {name!r} must read package.module:factory, such as mine:factory")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"task {name!r}: no module named {error.name!r}; run amc from the folder that holds "
            "it, or install it"
        ) from error
    except Exception as error:
        raise InputError(
            f"task {name!r}: module {module_name!r} cannot be imported: {_brief(error)}"
        ) from error
    place = getattr(module, "__file__", None) or "built into Python"
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(
            f"task {name!r}: module {module_name!r} ({place}) has no {attribute!r}"
            f"{nearest(attribute, public)}"
        )
    factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(
            f"task {name!r}: {attribute!r} of module {module_name!r} ({place}) is of type "
            f"{type(factory).__name__}, not a function; name one that returns amc.task.Task"
        )
    return factory  # type: ignore[no-any-return]


def _ready(name: str, task: Task) -> LoadedTask:
    inputs = _checked_types(name, task)
    network = task.network.eval()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"task {name!r}: weight {parameter!r} has NaN or infinite values; "
                "load trained weights"
            )
    _tried(name, network, inputs, "task.example_inputs")
    for split in ("train", "search", "test"):
        data: Data | None = getattr(task, split)
        if data is not None:
            _check_split(name, network, data, task.score or accuracy, f"task.{split}")
    return LoadedTask(
        name=name,
        network=network,
        inputs=inputs,
        train=_labelled(network, task.train),
        search=_labelled(network, task.search),
        test=None if task.test is None else _labelled(network, task.test),
        score=task.score or accuracy,
        network_digest=network_digest(network),
        score_name=_score_name(task),
    )


def _checked_types(name: str, task: Task) -> tuple[Tensor, ...]:
    """Return the example inputs as a tuple; ``InputError`` where a field is of another type."""
    inputs = task.example_inputs
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    data = [part for part in (task.train, task.search, task.test) if part is not None]
    fields = {
        "network must be a torch.nn.Module": isinstance(task.network, nn.Module),
        "example_inputs must be a tensor or a tuple of them": all(
            isinstance(part, Tensor) for part in inputs
        ),
        "train, task.search and task.test must be amc.data.Data": all(
            isinstance(part, Data) for part in data
        ),
        "train, task.search and task.test must hold tensors": all(
            isinstance(t, Tensor) for d in data if isinstance(d, Data) for t in d.digest_arrays()
        ),
    }
    for rule, kept in fields.items():
        if not kept:
            raise InputError(f"task {name!r}: task.{rule}")
    return inputs


def _tried(name: str, network: nn.Module, inputs: tuple[Tensor, ...], field: str) -> Tensor:
    """Return the network's outputs; ``InputError`` names ``field`` where it does not run on it."""
    try:
        with torch.inference_mode():
            outputs = network(*inputs)
    except Exception as error:
        shapes = ", ".join(str(list(t.shape)) for t in inputs)
        raise InputError(
            f"task {name!r}: the network does not run on {field} (of shape {shapes}): "
            f"{_brief(error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"task {name!r}: task.network must return one tensor, but returned "
            f"{type(outputs).__name__}; wrap it in a module that picks one"
        )
    return outputs


def _check_split(name: str, network: nn.Module, data: Data, score: Score, field: str) -> None:
    """Raise ``InputError`` unless the first examples can be scored, and all inputs are finite.

    The number itself is looked at by nobody, so that the test split stays unseen.
    """
    if not all(bool(torch.isfinite(t).all()) for t in data.inputs if t.is_floating_point()):
        raise InputError(f"task {name!r}: {field} has NaN or infinite inputs; remove or mend them")
    few = data[:2].channels_last()
    outputs = _tried(name, network, few.inputs, field)
    try:
        value: object = score(outputs, outputs if few.labels is None else few.labels)
    except Exception as error:
        raise InputError(
            f"task {name!r}: task.score fails on the outputs and labels of {field}: {_brief(error)}"
        ) from error
    if not isinstance(value, float | int) or not math.isfinite(value):
        shown = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
        raise InputError(
            f"task {name!r}: task.score must return a finite float, but on {field} gave {shown}"
        )


def _score_name(task: Task) -> str:
    if task.score is not None:
        return getattr(task.score, "__name__", type(task.score).__name__)
    return "agreement" if task.search.labels is None else "accuracy"


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Return the fraction of examples whose largest output is at the label.

    ``outputs`` is ``[B, K]``; ``labels`` int64 ``[B]``, or another network's outputs ``[B, K]``.
    """
    return float(right(outputs, labels).mean())


def right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return 1 for each example whose largest output is at the label, else 0; float64 ``[B]``."""
    target = labels.argmax(-1) if labels.dtype.is_floating_point else labels
    return (outputs.argmax(-1) == target).double()


def _labelled(network: nn.Module, data: Data) -> Data:
    """Return the split as it is scored: channels last, with labels."""
    data = data.channels_last()
    if data.labels is not None:
        return data
    with torch.inference_mode():
        outputs = [network(*batch.inputs) for batch in data.batches(250)]
    return data.with_labels(torch.cat(outputs).clone())


def network_digest(network: nn.Module) -> str:
    """Return the SHA-256 of the network's class and every parameter and buffer by name."""
    kind = type(network)
    return digest([f"{kind.__module__}.{kind.__qualname__}", state_digest(network.state_dict())])


def state_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values, in order of name."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return total.hexdigest()


def data_digest(*splits: Data) -> str:
    """Return the SHA-256 over all tensors of the splits."""
    return state_digest(
        {f"{i}.{j}": t for i, s in enumerate(splits) for j, t in enumerate(s.digest_arrays())}
    )
