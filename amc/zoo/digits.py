"""The two-second smoke task: a small residual network on scikit-learn's 8 x 8 digits."""

from __future__ import annotations

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
    """Return an 8-layer residual network of width 8, trained here and now in about a second."""
    if data != "pack" or data_folder is not None:
        raise InputError("task 'digits' has one data set, scikit-learn's; use data 'pack'")
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs = (torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] - 4.9) / 6.0
    every = Data(inputs, torch.tensor(labels, dtype=torch.int64)[order])
    train = every[:TRAIN]
    with preserved_generators():
        torch.manual_seed(0)
        network = ResNet(1, width=8)
    fit(network, train, Schedule(steps=120, batch_size=64, learning_rate=0.1), seed=0)
    return Task(network, inputs[:1], train, every[TRAIN : TRAIN + SEARCH], every[TRAIN + SEARCH :])
