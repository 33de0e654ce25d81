"""What a sparse kernel is held against: every dense form of torch, and the sparse libraries.

Each function returns calls by name; a call takes nothing and returns the product. Weights are
``[M, K]`` or ``[M, C, kh, kw]``; activations are ``[K, N]``, or a batch of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
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
    transposed = x.t().contiguous()
    image = x.reshape(1, depth, *sides(x.shape[1])).contiguous()
    last = image.contiguous(memory_format=torch.channels_last)
    kernel = weight.reshape(rows, depth, 1, 1)
    kernel_last = kernel.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Call] = {
        "mm": lambda: torch.mm(weight, x),
        "linear": lambda: F.linear(transposed, weight),
        "conv2d": lambda: F.conv2d(image, kernel),
        "conv2d_channels_last": lambda: F.conv2d(last, kernel_last),
    }
    # oneDNN's prepacked weights: private operators of torch, here as a yardstick alone.
    with suppress(AttributeError, RuntimeError):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[1])
        run = torch.ops.mkldnn._linear_pointwise
        run(transposed, packed, None, "none", [], "")
        calls["prepacked_linear"] = lambda: run(transposed, packed, None, "none", [], "")
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
    """Return torch's own sparse products of a weight with zeros: CSR and CSC."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls both layouts beta
        csr, csc = weight.to_sparse_csr(), weight.to_sparse_csc()
    return {"torch_csr": lambda: csr @ x, "torch_csc": lambda: csc @ x}


def scipy_sparse(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return scipy's CSR product."""
    from scipy.sparse import csr_matrix

    matrix, columns = csr_matrix(weight.numpy()), x.numpy()
    return {"scipy": lambda: matrix @ columns}


def onnx_runtime(weight: Tensor, x: Tensor) -> dict[str, Call]:
    """Return ONNX Runtime's dense product, its weight a constant; nothing if not installed."""
    try:
        import onnxruntime
    except ImportError:
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": x.t().contiguous().numpy()}
    return {"onnx_runtime": lambda: session.run(None, feed)}
