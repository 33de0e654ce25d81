"""Recording which operations a network really runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from amc.latency.ops import OpCall, Operand, OpTemplate, Width
from amc.latency.table import LatencyTable
from amc.latency.widths import Widths, widths_of

LAYOUT = 4  # the position of the packed weight's layout among the tensors of a sparse call


def trace_ops(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[OpCall]:
    """Return every operation of one forward pass, in order; views cost nothing and are left out.

    ``network`` is run as it is (``amc.deploy.deployed`` comes first), under inference mode, where
    composite operations such as ``conv2d`` stay whole.
    """
    recorder = _Recorder(network)
    hooks = [
        hook
        for name, module in network.named_modules()
        if name
        for hook in (
            module.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name)),
            module.register_forward_hook(lambda *_: recorder.leave()),
        )
    ]
    try:
        with torch.inference_mode(), recorder:
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.calls


class _Recorder(TorchDispatchMode):
    """Appends an ``OpCall`` for every operation that does work."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[OpCall] = []
        self._stack: list[str] = []
        self._last = ""
        tensors = [*network.parameters(), *network.buffers()]
        self._weights = {_memory(t) for t in tensors}

    def enter(self, name: str) -> None:
        self._stack.append(name)
        self._last = name

    def leave(self) -> None:
        self._stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = func._schema.name.split("::")[1]
        tensors = tensors_in((args, tuple(kwargs.values())))
        widths = widths_of(operation, tensors, args)
        # Described before the call: an operation in place may change what it found.
        template = _Describer(widths, self._weights).template(func, args, kwargs)
        output = func(*args, **kwargs)
        if not _is_view(func, tensors, output):
            layer = self._stack[-1] if self._stack else self._last
            outputs = tensors_in(output)
            macs = widths.macs_per_output * (outputs[0].numel() if outputs else 0)
            self.calls.append(OpCall(template, tuple(widths.values), layer, round(macs)))
        return output


def network_latency(network: nn.Module, inputs: tuple[Tensor, ...], table: LatencyTable) -> float:
    """Return the predicted seconds of one forward pass: the sum over what it really runs.

    Raises ``InputError`` for an operation that ``table`` lacks.
    """
    return table.network_latency(trace_ops(network, inputs))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples and lists, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for element in value for tensor in tensors_in(element)]
    return []


def _is_view(func: Any, inputs: list[Tensor], output: Any) -> bool:
    """Return whether nothing was computed: all outputs lie in the memory of the inputs."""
    if func._schema.is_mutable:
        return False
    inside = {_memory(t) for t in inputs}
    return all(_memory(t) in inside for t in tensors_in(output))


def _memory(tensor: Tensor) -> int:
    """Return where the tensor's storage begins."""
    return tensor.untyped_storage().data_ptr()


class _Describer:
    """Turns the arguments of one call into those of an ``OpTemplate``."""

    def __init__(self, widths: Widths, weights: set[int]) -> None:
        self._widths = widths
        self._weights = weights
        self._position = -1

    def template(self, func: Any, args: Any, kwargs: dict[str, Any]) -> OpTemplate:
        names = [argument.name for argument in func._schema.arguments]
        name = func._schema.name.replace("::", ".") + "." + func._overloadname
        return OpTemplate(
            name if func._overloadname else name + "default",
            tuple(
                self._widths.fixed.get(names[i]) or self._described(value, names[i])
                for i, value in enumerate(args)
            ),
            tuple((key, self._described(value, key)) for key, value in kwargs.items()),
            tuple(self._widths.names),
            args[names.index("kernel")] if name.startswith("amc.sparse_") else "dense",
        )

    def _described(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return self._operand(value)
        if isinstance(value, (tuple, list)):
            return tuple(self._described(element, name) for element in value)
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return self._widths.follows(name, value) or value
        if value is None or isinstance(value, (float, str)):
            return value
        return str(value)  # dtype, device, layout, memory format

    def _operand(self, tensor: Tensor) -> Operand:
        self._position += 1
        dtype = str(tensor.dtype).removeprefix("torch.")
        if self._position in self._widths.packed:
            # Their lengths follow from shape and density; of the last one, the layout, the first
            # number says which form of the kernel runs.
            form = int(tensor[0]) if self._position == LAYOUT else 0
            return Operand((form,), (0,), dtype, True)
        shape: list[int | Width] = list(tensor.shape)
        for (position, dim), width in self._widths.where.items():
            if position == self._position:
                shape[dim] = width
        return Operand(
            tuple(shape),
            _order(tensor),
            dtype,
            _memory(tensor) in self._weights,
        )


def _order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions from the largest stride to the smallest.

    A tensor that is contiguous in several orders counts as channels-last, else as plain, so that a
    width of 1 does not change the answer.
    """
    plain = tuple(range(tensor.dim()))
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return (0, 2, 3, 1)
    if tensor.is_contiguous():
        return plain
    return tuple(sorted(plain, key=tensor.stride, reverse=True))
