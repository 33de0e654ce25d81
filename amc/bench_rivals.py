"""What a sparse kernel is held against: every dense form of torch, and the sparse libraries.

Each function returns calls by name; a call takes nothing and returns the product. Weights are
``[M, K]`` or ``[M, C, kh, kw]``; activations are ``[K, N]``, or a batch of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[[], Any]


@dataclass(frozen=True)
class Convolution:
    """A convolution with square kernel, stride and padding, on ``batch`` images of ``size``."""

    rows: int
    channels: int
    size: tuple[int, int]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    batch: int = 1

    @property
    def product(self) -> tuple[int, int, int]:
        """The equal matrix product's ``(M, K, N)``."""
        height, width = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.size)
        depth = self.channels * self.kernel**2
        return self.rows, depth, self.batch * height * width

    def as_json(self) -> dict[str, Any]:
        """Return the dimensions by name."""
        return {
            "in_channels": self.channels,
            "out_channels": self.rows,
            "height": self.size[0],
            "width": self.size[1],
            "kernel": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "batch": self.batch,
        }


def sides(columns: int) -> tuple[int, int]:
    """Return height and width of an image of so many pixels, square where it can be."""
    side = round(columns**0.5)
    return (side, side) if side * side == columns else (1, columns)


def dense_products(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return the dense forms of ``weight @ x``: mm, linear, 1x1 convolutions, prepacked linear."""
    rows, depth = weight.shape
    image = x.reshape(1, depth, *sides(x.shape[1])).contiguous()
    how = Convolution(rows, depth, sides(x.shape[1]))
    images = dense_convolutions(weight.reshape(rows, depth, 1, 1), image, how)
    return {
        "mm": lambda: torch.mm(weight, x),
        **_linear_forms(weight, x.t().contiguous()),
        **images,
    }


def _linear_forms(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return torch's linear layer on ``x`` ``[N, K]``, plain and with a prepacked weight."""
    calls: dict[str, Call] = {"linear": lambda: F.linear(x, weight)}
    # oneDNN's prepacked weights: private operators of torch, here as a yardstick alone.
    with suppress(AttributeError, RuntimeError):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        run = torch.ops.mkldnn._linear_pointwise
        run(x, packed, None, "none", [], "")
        calls["prepacked_linear"] = lambda: run(x, packed, None, "none", [], "")
    return calls


def dense_convolutions(weight: Tensor, x: Tensor, how: Convolution) -> dict[str, Call]:
    """Return oneDNN's convolution of ``x`` in both memory formats."""
    last = x.contiguous(memory_format=torch.channels_last)
    weight_last = weight.contiguous(memory_format=torch.channels_last)
    options = (None, how.stride, how.padding)
    return {
        "conv2d": lambda: F.conv2d(x, weight, *options),
        "conv2d_channels_last": lambda: F.conv2d(last, weight_last, *options),
    }


def dense_pointwise(weight: Tensor, x: Tensor, how: Convolution) -> dict[str, Call]:
    """Return a 1x1 convolution of stride 1 as a product: linear on channels-last images, and mm.

    Nothing for other convolutions; ``mm`` for one image alone, whose channels are the rows.
    """
    if (how.kernel, how.stride, how.padding) != (1, 1, 0):
        return {}
    matrix = weight.flatten(1)
    calls = _linear_forms(matrix, x.permute(0, 2, 3, 1).reshape(-1, how.channels).contiguous())
    if how.batch == 1:
        columns = x.reshape(how.channels, -1)
        calls["mm"] = lambda: torch.mm(matrix, columns)
    return calls


def prepacked_convolution(weight: Tensor, x: Tensor, how: Convolution) -> dict[str, Call]:
    """Return oneDNN's convolution with weights packed beforehand, if torch has it."""
    pairs = [[how.padding] * 2, [how.stride] * 2, [1, 1]]
    last = x.contiguous(memory_format=torch.channels_last)
    with suppress(AttributeError, RuntimeError):
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *pairs, 1, list(x.shape))
        run = torch.ops.mkldnn._convolution_pointwise
        run(last, packed, None, *pairs, 1, "none", [], "")
        return {"prepacked": lambda: run(last, packed, None, *pairs, 1, "none", [], "")}
    return {}


def torch_sparse(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return torch's own sparse products of a weight with zeros, CSR and CSC, where torch has them.

    One column is given as a vector, which torch runs faster.
    """
    return _torch_sparse(weight, lambda: x, vector=x.shape[1] == 1)


def scipy_sparse(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return scipy's CSR product."""
    columns = x[:, 0] if x.shape[1] == 1 else x
    return _scipy_sparse(weight, lambda: columns)


def sparse_convolutions(weight: Tensor, x: Tensor, how: Convolution) -> dict[str, Call]:
    """Return the sparse libraries' convolutions: unfolded images times a sparse matrix.

    None of them has a convolution, so the calls, but those of 1x1 kernels on one image, are named
    ``..._unfold`` and unfold what they read each time. Their outputs stay ``[M, N]``.
    """
    matrix = weight.flatten(1)
    if (how.kernel, how.stride, how.padding, how.batch) == (1, 1, 0, 1):
        flat = x.reshape(how.channels, -1)
        return torch_sparse(matrix, flat) | scipy_sparse(matrix, flat)

    def unfolded() -> Tensor:
        columns = F.unfold(x, how.kernel, padding=how.padding, stride=how.stride)
        return columns.permute(1, 0, 2).reshape(columns.shape[1], -1)

    calls = _torch_sparse(matrix, unfolded) | _scipy_sparse(matrix, unfolded)
    return {f"{name}_unfold": call for name, call in calls.items()}


def _torch_sparse(
    weight: Tensor, columns: Callable[[], Tensor], vector: bool = False
) -> dict[str, Call]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls both layouts beta
        matrices = {"torch_csr": weight.to_sparse_csr(), "torch_csc": weight.to_sparse_csc()}
    column = columns()[:, 0].contiguous() if vector else None
    return {
        name: partial(_times, matrix, columns, column)
        for name, matrix in matrices.items()
        if _has_product(matrix.layout)
    }


def _times(matrix: Tensor, columns: Callable[[], Tensor], column: Tensor | None) -> Tensor:
    return matrix @ (columns() if column is None else column)


@lru_cache(maxsize=2)
def _has_product(layout: torch.layout) -> bool:
    """Return whether torch multiplies sparse matrices of this layout; builds without MKL do not."""
    try:
        torch.eye(2).to_sparse(layout=layout) @ torch.eye(2)
    except RuntimeError:
        return False
    return True


def _scipy_sparse(weight: Tensor, columns: Callable[[], Tensor]) -> dict[str, Call]:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(weight.numpy())
    return {"scipy": lambda: matrix @ columns().numpy()}


def onnx_session(model: bytes | str, threads: int) -> Any:
    """Return ONNX Runtime's session of a model, or of its file, on the CPU.

    Between calls its threads do not spin, which would slow down what is timed next. Raises
    ``ImportError`` where it is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_runtime(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return ONNX Runtime's dense product, its weight a constant; nothing if not installed.

    It takes as many threads as torch.
    """
    if find_spec("onnxruntime") is None:
        return {}
    from onnx import TensorProto, helper, numpy_helper

    shape = list(x.t().shape)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], len(weight)])],
        [numpy_helper.from_array(weight.t().contiguous().numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnx_session(model.SerializeToString(), torch.get_num_threads())
    feed = {"x": x.t().contiguous().numpy()}
    return {"onnx_runtime": lambda: session.run(None, feed)}
