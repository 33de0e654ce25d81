"""Least squares on the compressed network's own inputs, layer by layer in order of execution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amc.compress import Kept, masks
from amc.coupling import ChannelGroup
from amc.data import Data
from amc.layers import is_depthwise
from amc.reconstruction.moments import (
    MAX_COLUMNS,
    Moments,
    input_of,
    positions_an_example,
)
from amc.reconstruction.rows import (
    LAYERS,
    Layer,
    column_count,
    groups_of,
    output_rows,
    row_chunks,
    set_weight_matrix,
    weight_matrix,
)
from amc.reconstruction.solve import RIDGE, fit

PASS_BYTES = 2**28  # of one layer's input or output, over all examples of one pass


class Progressive:
    """Fits each layer to the dense network's outputs, behind all layers fitted before it.

    Every convolution and linear layer is fitted, grouped ones too, from the first one on that lost
    inputs; depthwise ones, a third of a point at several times the cost, are not. It is exact: a
    layer's inputs are those that it will get. The dense outputs are kept, float32, at up to
    ``moments.MAX_ROWS`` rows a layer. Where all examples fit into one pass (``PASS_BYTES``) an
    application is one pass over them; otherwise one that stops early a layer. A layer that is
    called several times is fitted to its first call.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[ChannelGroup], calibration: Data
    ) -> None:
        """Record the dense network's outputs."""
        self._groups = tuple(groups)
        layers: dict[str, Layer] = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, LAYERS) and not is_depthwise(module)
        }
        largest = _largest_value_count(network, layers, calibration[:1])
        size = max(1, min(len(calibration), PASS_BYTES // (4 * largest)))
        self._batches = list(calibration.batches(size))
        self._most = positions_an_example(len(calibration))
        self._targets = self._record(network, layers)
        wide = [n for n in self._targets if column_count(layers[n]) > MAX_COLUMNS]
        for name in wide:
            del self._targets[name]
        self._wide = wide
        self._dependent: dict[str, tuple[int, int]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the fits so far: layers left out, and ridges that decide."""
        notes = []
        if self._wide:
            listed = ", ".join(self._wide)
            notes.append(f"layers {listed} have more than {MAX_COLUMNS} columns and are not fitted")
        if self._dependent:
            listed = ", ".join(f"{n} ({k} of {of})" for n, (k, of) in self._dependent.items())
            notes.append(
                f"inputs of {listed} columns are linearly dependent or not finite in some plan; a "
                f"ridge of {RIDGE:g} of each column's power, towards the weights as they were, "
                "decides there"
            )
        return tuple(notes)

    @torch.no_grad()
    def apply(self, smaller: nn.Module, kept: Kept) -> None:
        """Fit the compressed network of ``kept``, in place; nothing where nothing was removed."""
        present = masks(self._groups, kept)
        narrowed = {name for (name, dim), mask in present.items() if dim == "in" and not mask.all()}
        modules = dict(smaller.named_modules())
        names = [name for name in self._targets if name in modules]  # blocks may be gone
        first = next((i for i, name in enumerate(names) if name in narrowed), len(names))
        fits = [
            _Fit(
                cast(Layer, modules[name]),
                self._targets[name],
                present.get((name, "out")),
                self._most,
            )
            for name in names[first:]
        ]
        if len(self._batches) == 1:
            with _hooked(fits, stop=False):
                smaller(*self._batches[0].inputs)
        else:
            self._fit_one_by_one(smaller, fits)
        for name, one in zip(names[first:], fits, strict=True):
            if one.dependent > self._dependent.get(name, (0, 0))[0]:
                columns = groups_of(one.layer) * column_count(one.layer)
                self._dependent[name] = one.dependent, columns

    def _fit_one_by_one(self, smaller: nn.Module, fits: Sequence[_Fit]) -> None:
        for one in fits:
            with _hooked([one], stop=True):
                for batch in self._batches:
                    try:
                        smaller(*batch.inputs)
                    except _Reached:
                        continue

    @torch.no_grad()
    def _record(self, network: nn.Module, layers: dict[str, Layer]) -> dict[str, list[Tensor]]:
        """Return each layer's outputs ``[rows, out]`` a batch, in order of first execution."""
        targets: dict[str, list[Tensor]] = {}
        seen: set[str] = set()

        def record(name: str, layer: Layer, outputs: Tensor) -> None:
            if name not in seen:
                seen.add(name)
                targets.setdefault(name, []).append(output_rows(layer, outputs, self._most))

        hooks = [
            layer.register_forward_hook(
                lambda module, _, outputs, name=name: record(name, module, outputs)
            )
            for name, layer in layers.items()
        ]
        try:
            for batch in self._batches:
                seen.clear()
                network(*batch.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return targets


class _Reached(Exception):
    """Ends a pass at the layer that it was made for."""


class _Fit:
    """One layer being fitted: moments of its inputs, and with the targets, a batch at a time."""

    def __init__(
        self,
        layer: Layer,
        targets: list[Tensor],
        outputs: NDArray[np.bool_] | None,
        most: int,
    ) -> None:
        self.layer, self._targets, self._most = layer, targets, most
        self._outputs = None if outputs is None else torch.from_numpy(np.flatnonzero(outputs))
        self._batch = 0
        self.dependent = 0  # columns for which the ridge decided
        self._moments = Moments.of(layer)
        self._prior = weight_matrix(layer)
        self._cross = torch.zeros_like(self._prior.mT)

    @property
    def done(self) -> bool:
        return self._batch == len(self._targets)

    def add(self, inputs: Tensor) -> None:
        """Take in the next batch; after the last one, give the layer its weights."""
        target = self._targets[self._batch]
        target = target if self._outputs is None else target[:, self._outputs]
        grouped = target.unflatten(1, (groups_of(self.layer), -1)).movedim(1, 0)
        start = 0
        for rows in row_chunks(self.layer, inputs, self._most):
            end = start + rows.shape[1]
            self._moments.add(rows)
            self._cross.baddbmm_(rows.mT, grouped[:, start:end].double())
            start = end
        self._batch += 1
        if self.done:
            self._moments.complete()
            weights, self.dependent = fit(self._moments.gram, self._cross, self._prior)
            set_weight_matrix(self.layer, weights)


@contextmanager
def _hooked(fits: Sequence[_Fit], stop: bool) -> Iterator[None]:
    """Have the layers fitted as passes reach them; ``stop`` ends each pass at the layer."""

    def reached(one: _Fit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not one.done:
            one.add(input_of(args, kwargs))
        if stop:
            raise _Reached

    hooks = [
        one.layer.register_forward_pre_hook(
            lambda _, args, kwargs, one=one: reached(one, args, kwargs), with_kwargs=True
        )
        for one in fits
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _largest_value_count(network: nn.Module, layers: dict[str, Layer], example: Data) -> int:
    """Return the most values that one example has as the input or output of a layer."""
    counts = [1]
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, outputs: counts.extend(t.numel() for t in (*inputs, outputs))
        )
        for layer in layers.values()
    ]
    try:
        network(*example.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return max(counts)
