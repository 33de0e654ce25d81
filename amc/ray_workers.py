"""Ray workers: one actor a core, one torch thread each. The only file that imports ray."""

from __future__ import annotations

import copy
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# Ray reads these when it is imported. A private Ray asks for a token; a cluster has its own rules.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if "RAY_ADDRESS" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"

import ray

from amc.data import Data
from amc.worker import Final, Job, Outcome, Work, Worker
from amc.workers import FinalWork, Finished

_TOKEN = secrets.token_hex(32)  # of every private Ray of this process, which reads it but once


class RayWorkers:
    """A pool of actors. ``RAY_ADDRESS`` joins a cluster; otherwise a private one is started.

    A second pool of one process shares the first one's Ray, which ends with the first.
    """

    def __init__(self, job: Job, count: int, cores: int | None = None) -> None:
        """Start ``count`` actors, in a private Ray of ``cores`` (by default as many)."""
        self._own, self._folder = _connect(cores or count)
        skeleton, arrays = _dismantle(job)
        # The driver keeps these references alive, or an actor could not be rebuilt.
        self._parts = [ray.put(skeleton), ray.put(arrays)]
        actor: Any = ray.remote(num_cpus=1, max_restarts=4, max_task_retries=5)(_Actor)
        self._actors = [actor.remote() for _ in range(count)]

    def run(self, batch: Sequence[Work], finished: Finished | None = None) -> list[Outcome]:
        """See ``amc.workers.Workers.run``."""
        starts = {id(w.start): ray.put(w.start) for w in batch if w.start is not None}
        calls = [("run", replace(w, start=None), starts.get(id(w.start))) for w in batch]
        return self._spread(calls, finished)

    def finalise(self, batch: Sequence[FinalWork]) -> list[Final]:
        """See ``amc.workers.Workers.finalise``."""
        return self._spread([("finalise", work) for work in batch], None)

    def first(self, count: int) -> RayWorkers:
        """Return the pool of the first ``count`` actors, which are this one's to end."""
        part = copy.copy(self)
        part._actors = self._actors[:count]
        return part

    def close(self) -> None:
        """End the actors, and Ray itself where this pool started it."""
        for actor in self._actors:
            ray.kill(actor)
        if self._own:
            ray.shutdown()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _spread(self, calls: Sequence[tuple[Any, ...]], finished: Finished | None) -> list[Any]:
        """Give each idle actor the next call, ``(method, *arguments)``; return answers in order."""
        answers: list[Any] = [None] * len(calls)
        idle, following = list(self._actors), 0
        running: dict[Any, tuple[int, Any]] = {}
        while following < len(calls) or running:
            while idle and following < len(calls):
                actor = idle.pop(0)
                method, *arguments = calls[following]
                call = getattr(actor, method).remote(self._parts, *arguments)
                running[call] = (following, actor)
                following += 1
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            position, actor = running.pop(done)
            idle.append(actor)
            answers[position], seconds, name = ray.get(done)
            if finished is not None:
                finished(position, seconds, name)
        return answers


class _Actor:
    """A ``Worker`` in a process of its own, built at its first call, again after a restart."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._name = f"{platform.node()}:{os.getpid()}"

    def run(self, parts: list[Any], work: Work, start: Any) -> tuple[Outcome, float, str]:
        begin = time.perf_counter()
        outcome = self._built(parts).run(replace(work, start=start))
        return outcome, time.perf_counter() - begin, self._name

    def finalise(self, parts: list[Any], work: FinalWork) -> tuple[Final, float, str]:
        begin = time.perf_counter()
        final = self._built(parts).finalise(*work)
        return final, time.perf_counter() - begin, self._name

    def _built(self, parts: list[Any]) -> Worker:
        if self._worker is None:
            self._worker = Worker(_assemble(*ray.get(parts)))
        return self._worker


SPLITS = ("calibration", "train", "search")


def _dismantle(job: Job) -> tuple[Job, dict[str, Any]]:
    """Return the job without numbers, and all numbers as numpy arrays, which Ray ships fastest."""
    tensors = _network_tensors(job.network)
    arrays: dict[str, Any] = {"network": {n: t.detach().numpy() for n, t in tensors.items()}}
    for split in SPLITS:
        arrays[split] = [t.numpy() for t in getattr(job, split).digest_arrays()]
    hollow = copy.deepcopy(job.network)
    for tensor in _network_tensors(hollow).values():
        tensor.data = torch.empty(0, dtype=tensor.dtype)
    nothing = Data(torch.empty(1, 0), torch.empty(1, 0))
    return replace(job, network=hollow, calibration=nothing, train=nothing, search=nothing), arrays


def _assemble(skeleton: Job, arrays: dict[str, Any]) -> Job:
    network = copy.deepcopy(skeleton.network)
    for name, tensor in _network_tensors(network).items():
        tensor.data = torch.from_numpy(np.array(arrays["network"][name]))
    splits = {}
    for split in SPLITS:
        *inputs, labels = (torch.from_numpy(np.array(a)) for a in arrays[split])
        splits[split] = Data(inputs, labels)
    return replace(
        skeleton,
        network=network,
        calibration=splits["calibration"],
        train=splits["train"],
        search=splits["search"],
    )


def _network_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer, shared ones once, non-persistent ones included."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _connect(count: int) -> tuple[bool, Path | None]:
    """Join the cluster of ``RAY_ADDRESS``, or start a private one.

    Returns whether this call did so, which must then end it, and the private one's folder.
    """
    if ray.is_initialized():
        return False, None
    paths = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": "1",
    }
    quiet: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"env_vars": environment},
    }
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **quiet)
        return True, None
    folder = Path(tempfile.mkdtemp(prefix="amc-ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(_TOKEN)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    ray.init(
        num_cpus=count,
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        _temp_dir=str(folder),
        **quiet,
    )
    return True, folder
