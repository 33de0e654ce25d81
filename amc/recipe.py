"""``amc train``: train a zoo network from a recipe, and write its weights as safetensors."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save

from amc.config_sections import PathText
from amc.errors import InputError
from amc.files import check_writable, write_bytes
from amc.invalid import explain
from amc.reporting import Handle, Reporter
from amc.strict_yaml import read_yaml
from amc.task import accuracy
from amc.training import Schedule, fit
from amc.worker import score
from amc.zoo.data import load
from amc.zoo.networks import ARCHITECTURES


class Recipe(BaseModel):
    """A training recipe: everything that the resulting weights depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    network: Literal["resnet8", "resnet20", "mobilenet"]
    data: Literal["pack", "full"] = "full"
    data_folder: PathText | None = None
    epochs: int = Field(12, ge=1, le=1000)
    batch_size: int = Field(128, ge=2, le=65536)
    learning_rate: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0, le=1000)
    seed: int = Field(0, ge=0, lt=2**31)
    threads: int = Field(1, ge=1, le=1024)


def read_recipe(path: Path) -> Recipe:
    """Return the checked recipe of a YAML file; ``InputError`` names each refused field."""
    try:
        return Recipe(**read_yaml(path, "recipe"))
    except ValidationError as error:
        raise InputError(explain(error, Recipe)) from error


def train_with_bar(recipe: Recipe, out: Path | None, reporter: Reporter) -> dict[str, object]:
    """Train and show how far it is; ``out`` is ``NETWORK.safetensors`` where it is not given."""
    bars: list[Handle] = []

    def on_step(step: int, steps: int, loss: float) -> None:
        if not bars:
            bars.append(reporter.task(f"training {recipe.network}", steps))
        bars[0].advance(1, f"loss {loss:.3f}")

    return train(recipe, out or Path(f"{recipe.network}.safetensors"), on_step)


def train(
    recipe: Recipe, out: Path, on_step: Callable[[int, int, float], None] | None = None
) -> dict[str, object]:
    """Train, write ``out`` (safetensors), and return what was reached, as a dict of facts.

    Raises ``InputError`` for an ``out`` that cannot be written, before anything is trained, and
    where training diverged.

    The search split is never trained on; accuracies on it and on the test split are taken once,
    after the last step. ``on_step`` receives the step, the number of steps and the loss.
    """
    check_writable(out, "--out")
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    splits = load(recipe.data, recipe.data_folder)
    if recipe.batch_size > len(splits.train):
        raise InputError(
            f"batch_size {recipe.batch_size} is above the {len(splits.train)} training images; "
            "lower it"
        )
    network = ARCHITECTURES[recipe.network]()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = recipe.epochs * (len(splits.train) // recipe.batch_size)
    schedule = Schedule(
        steps=steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=max(1, steps // 20),
        augment=True,
    )
    start = time.perf_counter()
    report = None if on_step is None else lambda step, loss: on_step(step, steps, loss)
    fit(network, splits.train, schedule, recipe.seed, report)
    train_s = time.perf_counter() - start
    state = {name: t.contiguous() for name, t in network.state_dict().items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise InputError(
            f"learning_rate {recipe.learning_rate:g} made the weights infinite or NaN; lower it. "
            "Nothing was written"
        )
    write_bytes(out, save(state))
    return {
        "network": recipe.network,
        "out": str(out),
        "train_images": len(splits.train),
        "search_accuracy": score(network, splits.search, accuracy),
        "test_accuracy": score(network, splits.test, accuracy),
        "test_images": len(splits.test),
        "train_s": round(train_s, 1),
    }
