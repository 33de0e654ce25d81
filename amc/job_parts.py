"""A job in two parts: without numbers, and all its numbers as numpy arrays, shipped fastest so."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from amc.data import Data
from amc.worker import Job

SPLITS = ("calibration", "train", "search")


def dismantle(job: Job) -> tuple[Job, dict[str, Any]]:
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


def assemble(skeleton: Job, arrays: dict[str, Any]) -> Job:
    """Return the job that ``dismantle`` took apart."""
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
