"""The published evaluation, written down plainly, to be held against ours in ``bench evaluation``.

AMC (He et al., arXiv:1802.03494, and its code): inputs and outputs of every layer of the *unpruned*
network are sampled once, 30,000 rows a layer, and stored. For each plan every layer that lost
inputs is fitted anew by linear regression without intercept (scikit-learn), and the dense network
with zeros in place of the removed weights is run over the search images. Deviation: layers of k x k
are fitted too, as ours are.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amc.compress import Kept, masks
from amc.coupling import ChannelGroup
from amc.data import Data
from amc.errors import InputError
from amc.task import Score
from amc.worker import score

ROWS = 30_000
BATCH = 50
SCORING_BATCH = 500  # images; the fastest of 10 to 500 for plain torch here


@dataclass(frozen=True)
class ReferenceTimes:
    """One plan's score, and seconds of its regressions and of its masked forward pass."""

    score: float
    reconstruct_s: float
    score_s: float

    @property
    def evaluation_s(self) -> float:
        """Seconds of the whole evaluation."""
        return self.reconstruct_s + self.score_s


class Reference:
    """Evaluates plans as published. Rows of all layers are stored: hundreds of MB."""

    def __init__(
        self, network: nn.Module, groups: Sequence[ChannelGroup], calibration: Data, seed: int = 0
    ) -> None:
        """Sample ``ROWS`` rows a layer, at random output positions of ``calibration``."""
        self._network, self._groups = copy.deepcopy(network).eval(), tuple(groups)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        modules = dict(self._network.named_modules())
        names = {m.layer for group in groups for m in group.members if m.role == "uses"}
        self._layers = {name: module for name, module in modules.items() if name in names}
        for name, layer in self._layers.items():
            if not _is_supported(layer):
                raise InputError(
                    f"the reference path has no regression for layer {name!r} of type "
                    f"{type(layer).__name__}; choose a network of 2d convolutions"
                )
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._layers}
        self._points = max(1, ROWS // len(calibration))
        self._generator = torch.Generator().manual_seed(seed)
        self._sample(calibration)

    @torch.inference_mode()
    def evaluate(self, kept: Kept, search: Data, function: Score) -> ReferenceTimes:
        """Return the score on ``search`` of the plan that keeps ``kept``."""
        begin = time.perf_counter()
        masked = copy.deepcopy(self._network)
        present = masks(self._groups, kept)
        modules = dict(masked.named_modules())
        for name, layer in self._layers.items():
            mask = torch.from_numpy(present[name, "in"])
            if not mask.all():
                weight = modules[name].weight
                assert isinstance(weight, Tensor)
                weight.copy_(_regression(*self._stored(name), mask, layer))
        middle = time.perf_counter()
        value = score(masked, search, function, SCORING_BATCH)
        return ReferenceTimes(value, middle - begin, time.perf_counter() - middle)

    def _stored(self, name: str) -> tuple[Tensor, Tensor]:
        """Return rows ``[ROWS, in * k * k]`` and targets ``[ROWS, out]`` of a layer."""
        if len(self._rows[name]) > 1:
            inputs, targets = zip(*self._rows[name], strict=True)
            self._rows[name] = [(torch.cat(inputs), torch.cat(targets))]
        return self._rows[name][0]

    @torch.inference_mode()
    def _sample(self, calibration: Data) -> None:
        hooks = [
            layer.register_forward_hook(
                lambda module, args, output, name=name: self._rows[name].append(
                    self._sampled(module, args[0], output)
                )
            )
            for name, layer in self._layers.items()
        ]
        try:
            for batch in calibration.batches(BATCH):
                self._network(*batch.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        for name in self._layers:
            self._stored(name)

    def _sampled(self, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and targets of one call, at random positions of each example."""
        if isinstance(layer, nn.Linear):
            patches, targets = inputs[:, None], outputs[:, None]
        else:
            assert isinstance(layer, nn.Conv2d)
            padding = layer.padding
            assert not isinstance(padding, str)
            unfolded = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
            patches, targets = unfolded.mT, outputs.flatten(2).mT
        if isinstance(layer.bias, Tensor):
            targets = targets - layer.bias
        points = min(self._points, patches.shape[1])
        chosen = torch.rand(patches.shape[:2], generator=self._generator).argsort(1)[:, :points]
        example = torch.arange(len(patches))[:, None]
        return patches[example, chosen].flatten(0, 1), targets[example, chosen].flatten(0, 1)


def _is_supported(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def _regression(rows: Tensor, targets: Tensor, mask: Tensor, layer: nn.Module) -> Tensor:
    """Return the layer's weight, fitted on the inputs of ``mask [in]``, 0 elsewhere."""
    from sklearn.linear_model import LinearRegression

    weight = layer.weight
    assert isinstance(weight, Tensor)
    columns = mask.repeat_interleave(weight[0, 0].numel())
    fitted = LinearRegression(fit_intercept=False).fit(rows[:, columns].numpy(), targets.numpy())
    result = torch.zeros(weight.shape[0], len(columns), dtype=weight.dtype)
    result[:, columns] = torch.from_numpy(fitted.coef_).to(weight.dtype)
    return result.view(weight.shape)
