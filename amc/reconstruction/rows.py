"""A convolution or linear layer as a matrix product: rows of inputs, times a matrix of weights.

Columns are ordered by kernel position, then input channel; a layer with a bias has one more column
of ones at the end, so that its bias is solved for like any weight. ``g`` is the layer's number of
groups, 1 for linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
CHUNK_VALUES = 2_000_000  # float64 values of one chunk of rows: 16 MB


def positions_of_kernel(layer: Layer) -> int:
    """Return the number of kernel positions, 1 for linear layers."""
    return 1 if isinstance(layer, nn.Linear) else math.prod(layer.kernel_size)


def groups_of(layer: Layer) -> int:
    """Return ``g``."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def column_count(layer: Layer) -> int:
    """Return the number of columns of one group, that of ones included."""
    return layer.weight[0].numel() + (layer.bias is not None)


def weight_columns(weight: Tensor) -> Tensor:
    """Return a layer's weight as a float64 matrix ``[out, columns]``, without a bias."""
    weight = weight.detach().double()
    return weight.flatten(2).movedim(2, 1).flatten(1) if weight.dim() > 2 else weight


def weight_matrix(layer: Layer) -> Tensor:
    """Return weight and bias as a float64 matrix ``[g, out / g, columns]``."""
    matrix = weight_columns(layer.weight)
    if layer.bias is not None:
        matrix = torch.cat([matrix, layer.bias.detach().double()[:, None]], 1)
    grouped: Tensor = matrix.unflatten(0, (groups_of(layer), -1))
    return grouped


@torch.no_grad()
def set_weight_matrix(layer: Layer, matrix: Tensor) -> None:
    """Give the layer the weight and bias of ``matrix [g, out / g, columns]``, in place."""
    flat = matrix.flatten(0, 1)
    if layer.bias is not None:
        layer.bias.copy_(flat[:, -1])
        flat = flat[:, :-1]
    if layer.weight.dim() > 2:
        flat = flat.unflatten(1, (positions_of_kernel(layer), -1)).movedim(1, 2)
    layer.weight.copy_(flat.reshape(layer.weight.shape))


def row_chunks(layer: Layer, inputs: Tensor, most: int | None = None) -> Iterator[Tensor]:
    """Yield the rows that ``inputs`` of one call make, float64 ``[g, rows, columns]`` at a time.

    ``most`` limits the output positions that are taken of each example; the same ones of all, drawn
    once for each number of positions. Rows are ordered by example, then position.
    """
    view = _windows(layer, inputs)
    kernel = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
    places = view.shape[1 : view.dim() - kernel - 1]
    taken = chosen_positions(math.prod(places), most)
    g, columns = groups_of(layer), column_count(layer)
    limit = max(1, CHUNK_VALUES // (g * columns))
    count = math.prod(places) if taken is None else len(taken)
    if count <= limit and taken is None:
        for part in view.split(limit // count):
            yield _filled(part, g, columns, kernel)
        return
    taken = torch.arange(count) if taken is None else taken
    for part in view.split(max(1, limit // count)):
        for some in taken.split(limit):
            index = torch.unravel_index(some, places)
            yield _filled(part[(slice(None), *index)], g, columns, kernel)


def chosen_positions(count: int, most: int | None) -> Tensor | None:
    """Return ``most`` of ``count`` positions, ascending, always the same; ``None`` for all."""
    if most is None or count <= most:
        return None
    generator = torch.Generator().manual_seed(count)
    return torch.randperm(count, generator=generator)[:most].sort().values


def output_rows(layer: Layer, outputs: Tensor, most: int | None = None) -> Tensor:
    """Return a call's outputs ``[rows, out]``, at the positions of ``row_chunks``."""
    if isinstance(layer, nn.Linear):
        flat = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    else:
        flat = _batched(layer, outputs).flatten(2).movedim(1, 2)
    taken = chosen_positions(flat.shape[1], most)
    return (flat if taken is None else flat[:, taken]).flatten(0, 1).contiguous()


def _windows(layer: Layer, inputs: Tensor) -> Tensor:
    """Return a view ``[examples, *positions, *kernel, in]`` of what each output is made of."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs), -1, inputs.shape[-1])
    padded = _padded(layer, _batched(layer, inputs))
    for dim, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2
    ):
        padded = padded.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return padded.movedim(1, -1)


def _batched(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, tensor: Tensor) -> Tensor:
    """Return ``tensor`` with the dimension of examples, which a convolution can do without."""
    return tensor[None] if tensor.dim() == len(layer.kernel_size) + 1 else tensor


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    """Return the inputs with the layer's own padding around them."""
    if layer.padding == "valid":
        return inputs
    sides: list[int] = []
    for dim in reversed(range(len(layer.kernel_size))):
        if isinstance(layer.padding, str):  # "same"
            total = layer.dilation[dim] * (layer.kernel_size[dim] - 1)
            sides += [total // 2, total - total // 2]
        else:
            sides += [int(layer.padding[dim])] * 2
    if not any(sides):
        return inputs
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, sides, mode=mode)


def _filled(part: Tensor, g: int, columns: int, kernel: int) -> Tensor:
    """Copy windows ``[examples, *positions, *kernel, in]`` into rows ``[g, rows, columns]``."""
    places, inner = part.shape[: part.dim() - kernel - 1], part.shape[part.dim() - kernel - 1 :]
    values = math.prod(inner) // g
    rows = torch.empty(g, math.prod(places), columns, dtype=torch.float64)
    rows[..., values:] = 1.0
    grouped = part.unflatten(-1, (g, -1)).movedim(-2, 0)
    rows[..., :values].unflatten(1, places).unflatten(-1, grouped.shape[-kernel - 1 :]).copy_(
        grouped
    )
    return rows
