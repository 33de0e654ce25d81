"""The two-second smoke task: a small residual network on scikit-learn's 8 x 8 digits."""

from __future__ import annotations

import copy
from functools import cache
from typing import Literal

import torch
from sklearn.datasets import load_digits

from amc.data import Data
from amc.errors import InputError
from amc.search_task import preserved_generators
from amc.task import Task
from amc.training import Schedule, fit
from amc.zoo.networks import ResNet

TRAIN, SEARCH = 1_000, 400


def digits(data: Literal["pack", "full"] = "pack", data_folder: str | None = None) -> Task:
    """Return an 8-layer residual network of width 8, trained in about a second, once a process."""
    if data != "pack" or data_folder is not None:
        raise InputError("task 'digits' has one data set, scikit-learn's; use data 'pack'")
    every, network = _trained()
    network = copy.deepcopy(network)
    train, search, test = every[:TRAIN], every[TRAIN : TRAIN + SEARCH], every[TRAIN + SEARCH :]
    return Task(network, every.inputs[0][:1], train, search, test)


@cache
def _trained() -> tuple[Data, ResNet]:
    """Return all examples and the network, which nobody may change."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs = (torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] - 4.9) / 6.0
    every = Data(inputs, torch.tensor(labels, dtype=torch.int64)[order])
    with preserved_generators():
        torch.manual_seed(0)
        network = ResNet(1, width=8)
    schedule = Schedule(steps=120, batch_size=64, learning_rate=0.1)
    fit(network, every[:TRAIN], schedule, seed=0)
    return every, network
