"""The zoo's trained networks on Fashion-MNIST, as tasks."""

from __future__ import annotations

from importlib import resources
from typing import Literal

import torch
from safetensors.torch import load as load_safetensors

from amc.errors import InputError
from amc.task import Task
from amc.zoo.data import load
from amc.zoo.networks import ARCHITECTURES


def resnet8(data: Literal["pack", "full"] = "pack", data_folder: str | None = None) -> Task:
    """Return the 8-layer residual network, 2.6M MACs."""
    return _task("resnet8", data, data_folder)


def resnet20(data: Literal["pack", "full"] = "pack", data_folder: str | None = None) -> Task:
    """Return the 20-layer residual network, 8.5M MACs."""
    return _task("resnet20", data, data_folder)


def mobilenet(data: Literal["pack", "full"] = "pack", data_folder: str | None = None) -> Task:
    """Return the depthwise-separable network, 8.5M MACs."""
    return _task("mobilenet", data, data_folder)


def _task(name: str, data: Literal["pack", "full"], data_folder: str | None) -> Task:
    network = ARCHITECTURES[name]()
    weights = resources.files("amc.zoo").joinpath(f"{name}.safetensors")
    if not weights.is_file():
        raise InputError(
            f"task {name!r} has no weights; run: amc train experiments/train-{name}.yaml "
            f"--out amc/zoo/{name}.safetensors"
        )
    network.load_state_dict(load_safetensors(weights.read_bytes()))
    splits = load(data, data_folder)
    return Task(network, torch.zeros(1, 1, 28, 28), splits.train, splits.search, splits.test)
